package kmsv2

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/rotation"
)

// writeKey is what Encrypt needs: a key id and a sealer with a DEK wrapped under
// that very id. The DEK is renewed inside it, the id never changes.
type writeKey struct {
	keyID  string
	aad    []byte // of KMS v2 under keyID
	sealer *envelope.Sealer

	// admitted is the generation of the ring at which it last admitted keyID: asked
	// by every request, and changed by few.
	admitted atomic.Uint64
	// heldOver is set while another key is the ring's writer and cannot wrap.
	heldOver atomic.Bool

	mu       sync.Mutex
	dek      savedDEK  // the DEK in use
	verified time.Time // when the vault last wrapped or unwrapped it
	refused  time.Time // while held over: the first refusal since then
	taken    error     // and the one that confirmed it
}

// admittedBy reports whether the ring admits the key now.
func (k *writeKey) admittedBy(r *rotation.Ring) bool {
	generation := r.Generation() // before the question, so that a change in between shows
	if generation == k.admitted.Load() {
		return true
	}
	if !r.Admits(k.keyID) {
		return false
	}
	k.admitted.Store(generation)
	return true
}

// use notes the DEK that the sealer is about to use, at a time when the vault has
// just wrapped or unwrapped it.
func (k *writeKey) use(header []byte, created, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dek = savedDEK{keyID: k.keyID, header: header, created: created}
	k.verified = now
}

// verify notes that the vault answered for the key at that time. Whatever was
// refused before is over.
func (k *writeKey) verify(at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.verified = later(k.verified, at)
	k.refused, k.taken = time.Time{}, nil
}

func (k *writeKey) lastVerified() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.verified
}

func (k *writeKey) currentDEK() savedDEK {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.dek
}

// writeKeys are the write keys alive at one moment. It never changes; another takes
// its place.
type writeKeys struct {
	live     *writeKey // the newest, nil before the first and after a revocation
	reported *writeKey // the one that the last Status reported, or nil
}

// forDomain returns the key that a request must be sealed under.
func (w *writeKeys) forDomain(d Domain) *writeKey {
	if d == DomainV2 && w.reported != nil {
		return w.reported
	}
	return w.live
}

func (w *writeKeys) has(k *writeKey) bool { return k == w.live || k == w.reported }

// replaceKeys puts next in place of the write keys and closes those that are left
// out. A request that still holds one notices and takes the next, see [Service.seal].
func (s *Service) replaceKeys(next func(old writeKeys) writeKeys) {
	s.keysMu.Lock()
	defer s.keysMu.Unlock()
	old := s.keys.Load()
	now := next(*old)
	if now == *old {
		return
	}
	s.keys.Store(&now)
	for _, k := range []*writeKey{old.live, old.reported} {
		if k != nil && !now.has(k) {
			k.sealer.Close()
		}
	}
}

// promote makes k the newest write key, or drops it if the service is closed.
func (s *Service) promote(k *writeKey) {
	s.replaceKeys(func(old writeKeys) writeKeys {
		if s.closed.Load() {
			k.sealer.Close()
			return writeKeys{}
		}
		next := writeKeys{live: k, reported: old.reported}
		// A new DEK under the reported id is not a change that Status has to announce.
		if old.reported != nil && old.reported.keyID == k.keyID {
			next.reported = k
		}
		return next
	})
}

// report makes the newest write key the one that Encrypt uses, and returns it.
func (s *Service) report() *writeKey {
	if keys := s.keys.Load(); keys.live == keys.reported {
		return keys.live
	}
	s.replaceKeys(func(old writeKeys) writeKeys { return writeKeys{live: old.live, reported: old.live} })
	return s.keys.Load().live
}

// keyWrapper wraps a write key's DEKs, under the write key's id only. What the key
// seals is stored beside that id: a wrap under another, by a KEK that is not pinned,
// would be data that Decrypt must refuse (rule 11).
type keyWrapper struct {
	key *writeKey
	kek envelope.Wrapper
}

var _ envelope.Wrapper = (*keyWrapper)(nil)

func (w *keyWrapper) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	wrapped, err := w.kek.Wrap(ctx, dek)
	if err != nil {
		return envelope.WrappedKey{}, err
	}
	if w.key.keyID == "" {
		// The first wrap of a key that is not used yet.
		w.key.keyID = wrapped.KeyID
	}
	if wrapped.KeyID != w.key.keyID {
		return envelope.WrappedKey{}, &envelope.Error{
			Class: envelope.ErrUnreachable, Op: "renew DEK", Key: w.key.keyID, Err: errKeyMovedOn,
		}
	}
	return wrapped, nil
}

// serves reports whether k is what the ring's writer asks for.
func (k *writeKey) serves(w rotation.Writer) bool {
	return k != nil && w.KeyID != "" && k.keyID == w.KeyID
}
