package envelope

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of one DEK. With random 96-bit nonces under one sub-key, 2^32 messages
// are what NIST SP 800-38D, section 8.3 allows; at 2^28 the chance of any
// collision is below 2^-41.
const (
	hardMaxMessages = 1 << 28
	softMaxMessages = 1 << 27
	softMaxBytes    = 64 << 30
	softMaxAge      = 24 * time.Hour
)

// SealerOptions are the settings of a [Sealer]. The zero value is safe.
type SealerOptions struct {
	// MaxMessages, MaxBytes (of plaintext) and MaxAge lower the limits after which
	// a DEK is renewed: 2^27 messages, 64 GiB, 24 hours. Zero keeps a limit, and
	// none can be raised.
	MaxMessages, MaxBytes uint64
	MaxAge                time.Duration
	// OnNewDEK is called with each DEK before its first use: a new one, and one
	// resumed. It may pin k in a cache, so that what was just sealed opens without
	// a remote call, and store k.Header() for [Sealer.Resume]; k is the
	// receiver's to wipe. It is called one DEK at a time, in the order in which
	// they come into use. Whoever needs the DEK waits for it to return, so it must
	// not seal, prepare or resume itself.
	OnNewDEK func(k *OpenKey, created time.Time)
	// Now is the clock, time.Now if nil.
	Now func() time.Time
}

// A Sealer seals messages under a DEK of its own, which it renews. It is safe for
// concurrent use.
//
// A DEK that reaches a limit of [SealerOptions] is renewed in the background.
// Nobody waits for that, and while the KEK cannot wrap (it is expired, or out of
// reach) the Sealer goes on under the old DEK and tries again every ten seconds
// at most. Only at 2^28 messages does it stop: then Seal returns the KEK's error
// until a wrap succeeds.
type Sealer struct {
	wrapper   Wrapper
	options   SealerOptions
	hardLimit uint64 // of messages under one DEK

	current atomic.Pointer[sealingKey] // nil before the first DEK and after Close

	using chan struct{} // takes one token while a DEK is put to use

	ctx    context.Context // ends at Close
	cancel context.CancelFunc

	mu      sync.Mutex // guards what follows
	renewal *renewal   // under way, or nil
	retryAt time.Time  // no earlier renewal, after one that failed
	lastErr error      // of that one
	closed  bool
}

// sealingKey is one DEK in use for sealing, with what is spent of it.
type sealingKey struct {
	header   []byte
	selector selector
	aead     cipher.AEAD
	created  time.Time

	messages, bytes atomic.Uint64
	aged            atomic.Bool // set by expiry
	expiry          *time.Timer
}

// NewSealer returns a Sealer that wraps its DEKs with w. It makes no DEK yet, see
// [Sealer.Prepare].
func NewSealer(w Wrapper, o SealerOptions) (*Sealer, error) {
	if w == nil {
		return nil, invalid("new sealer", "a nil wrapper")
	}
	if o.MaxMessages > softMaxMessages || o.MaxBytes > softMaxBytes || o.MaxAge > softMaxAge || o.MaxAge < 0 {
		return nil, invalid("new sealer", "limits of a DEK beyond %d messages, %d bytes, %v", uint64(softMaxMessages), uint64(softMaxBytes), softMaxAge)
	}
	if o.MaxMessages == 0 {
		o.MaxMessages = softMaxMessages
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = softMaxBytes
	}
	if o.MaxAge == 0 {
		o.MaxAge = softMaxAge
	}
	s := &Sealer{wrapper: w, options: o, hardLimit: hardMaxMessages, using: make(chan struct{}, 1)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Header returns the header of the DEK in use, to be read only, or nil if there
// is none yet.
func (s *Sealer) Header() []byte {
	if k := s.current.Load(); k != nil {
		return k.header
	}
	return nil
}

// Seal encrypts plaintext and authenticates it together with aad, which the
// envelope does not contain and [Opener.Open] must be given again. It says what
// the data is and where it belongs; nil is for data that may stand anywhere. The
// result is a self-contained envelope: [MessageOverhead] and the header longer
// than plaintext.
//
// A plaintext above [MaxPlaintextSize] is [ErrInvalid]. Seal waits for the KEK,
// within ctx, only if there is no DEK yet or the one in use is spent; other
// errors are the KEK's.
func (s *Sealer) Seal(ctx context.Context, plaintext, aad []byte) ([]byte, error) {
	k, err := s.acquire(ctx, plaintext)
	if err != nil {
		return nil, err
	}
	env := make([]byte, 0, len(k.header)+len(plaintext)+MessageOverhead)
	return k.appendMessage(append(env, k.header...), plaintext, aad), nil
}

// AppendSeal is [Sealer.Seal] appending the envelope to dst, with no allocation
// if it fits. The spare capacity of dst must not overlap plaintext or aad
// ([ErrInvalid]).
func (s *Sealer) AppendSeal(ctx context.Context, dst, plaintext, aad []byte) ([]byte, error) {
	if err := checkDst("seal", dst, plaintext, aad); err != nil {
		return nil, err
	}
	k, err := s.acquire(ctx, plaintext)
	if err != nil {
		return nil, err
	}
	dst = slices.Grow(dst, len(k.header)+len(plaintext)+MessageOverhead)
	return k.appendMessage(append(dst, k.header...), plaintext, aad), nil
}

// SealDetached is [Sealer.Seal] with the header apart from the message. Many
// messages share a header: who stores it once for all of them saves its length.
func (s *Sealer) SealDetached(ctx context.Context, plaintext, aad []byte) (header, message []byte, err error) {
	k, err := s.acquire(ctx, plaintext)
	if err != nil {
		return nil, nil, err
	}
	message = make([]byte, 0, len(plaintext)+MessageOverhead)
	return slices.Clone(k.header), k.appendMessage(message, plaintext, aad), nil
}

// AppendSealDetached is [Sealer.SealDetached] appending to two destinations. The
// spare capacity of either must not overlap the other destination, plaintext or
// aad ([ErrInvalid]).
func (s *Sealer) AppendSealDetached(ctx context.Context, headerDst, messageDst, plaintext, aad []byte) (header, message []byte, err error) {
	if err := checkDst("seal", headerDst, messageDst[:cap(messageDst)], plaintext, aad); err != nil {
		return nil, nil, err
	}
	if err := checkDst("seal", messageDst, headerDst[:cap(headerDst)], plaintext, aad); err != nil {
		return nil, nil, err
	}
	k, err := s.acquire(ctx, plaintext)
	if err != nil {
		return nil, nil, err
	}
	messageDst = slices.Grow(messageDst, len(plaintext)+MessageOverhead)
	return append(headerDst, k.header...), k.appendMessage(messageDst, plaintext, aad), nil
}

// Close drops the DEK. Later calls fail with [ErrInvalid]; those under way end
// well. As with [OpenKey.Wipe], the cipher's expanded key stays in memory until
// that is used again.
func (s *Sealer) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.cancel()
	s.replace(nil)
}

func errClosed() error { return invalid("seal", "the sealer is closed") }

// acquire returns the key for one more message and counts it.
func (s *Sealer) acquire(ctx context.Context, plaintext []byte) (*sealingKey, error) {
	if err := checkPlaintextSize(uint64(len(plaintext))); err != nil {
		return nil, err
	}
	for {
		k := s.current.Load()
		if k != nil && k.messages.Add(1) <= s.hardLimit {
			k.bytes.Add(uint64(len(plaintext)))
			if s.due(k) {
				s.renewSoon(k)
			}
			return k, nil
		}
		if err := s.renewNow(ctx); err != nil {
			return nil, err
		}
	}
}

// checkPlaintextSize keeps GCM from panicking.
func checkPlaintextSize(n uint64) error {
	if n > MaxPlaintextSize {
		return invalid("seal", "a plaintext of %d bytes, more than %d", n, uint64(MaxPlaintextSize))
	}
	return nil
}

// newSealingKey builds the key of a header for sealing. The selector is random
// and fresh every time, so that two processes, or two runs of one, that share a
// DEK never share a sub-key, and each has the whole of the limits.
func newSealingKey(header []byte, s *secrets, created time.Time) (*sealingKey, error) {
	k := &sealingKey{header: header, created: created}
	rand.Read(k.selector[:])
	var err error
	k.aead, err = newMessageAEAD(&s.message, k.selector)
	return k, err
}

// appendMessage appends selector, nonce, ciphertext and tag. dst has the room.
func (k *sealingKey) appendMessage(dst, plaintext, aad []byte) []byte {
	return k.aead.Seal(append(dst, k.selector[:]...), nil, plaintext, aad)
}

// openKey returns the key that opens what k seals.
func (k *sealingKey) openKey(s *secrets) (*OpenKey, error) {
	p, err := parseDetached(k.header)
	if err != nil {
		return nil, err
	}
	o := newOpenKey(&p, s)
	o.keep(&readyAEAD{k.selector, k.aead})
	return o, nil
}
