package envelope

import (
	"context"
	"crypto/cipher"
	"errors"
	"sync"
	"sync/atomic"
)

// An OpenKey is the verified key of one header. It opens the messages under that
// header and never seals: whoever can mint a wrap under an RSA public key must
// not choose the key that we write with. It is safe for concurrent use.
type OpenKey struct {
	header []byte
	keyIDs []string

	// ready is AES-GCM for the one selector that this key's writer uses. It is
	// set once, by the first message that authenticates, so that nobody without
	// the key can decide what is kept here.
	ready atomic.Pointer[readyAEAD]

	mu    sync.Mutex // guards what follows
	key   [32]byte
	wiped bool
}

type readyAEAD struct {
	selector selector
	aead     cipher.AEAD
}

var (
	errNotAuthentic = errors.New("message or associated data not authentic")
	// errWiped lets an Opener tell a key that its cache has just dropped from
	// one that cannot open.
	errWiped = errors.New("the key was wiped")
)

// OpenHeader unwraps the DEK of a detached header and verifies the header's tag
// with it. Nothing in header is used before that, except to choose a key. A
// malformed header is [ErrCorrupt] and never reaches u.
//
// Of several wraps, those under keys that u does not know ([ErrUnknownKey]) are
// skipped, and the first that unwraps decides. If none does, the error is the
// most hopeful one: a failure that may pass (unreachable, throttled, not
// authenticated) before one about a key, that before ErrCorrupt, and
// ErrUnknownKey only if u knows none of the keys.
func OpenHeader(ctx context.Context, u Unwrapper, header []byte) (*OpenKey, error) {
	p, err := parseDetached(header)
	if err != nil {
		return nil, err
	}
	dek, s, err := unwrapHeader(ctx, u, &p)
	if err != nil {
		return nil, err
	}
	clear(dek)
	defer s.wipe()
	return newOpenKey(&p, s), nil
}

// newOpenKey keeps p's bytes and copies what it needs of s.
func newOpenKey(p *parsedHeader, s *secrets) *OpenKey {
	k := &OpenKey{header: p.raw, keyIDs: make([]string, p.count), key: s.message}
	for i, w := range p.wraps[:p.count] {
		k.keyIDs[i] = string(w.keyID)
	}
	return k
}

// Header returns the exact bytes of the header, to be read only.
func (k *OpenKey) Header() []byte { return k.header }

// KeyIDs returns the key id of every wrap in the header, to be read only.
func (k *OpenKey) KeyIDs() []string { return k.keyIDs }

// Open decrypts a message sealed under this header with the same associated
// data. Whatever is not authentic is [ErrCorrupt].
func (k *OpenKey) Open(message, aad []byte) ([]byte, error) {
	if err := checkMessage(message); err != nil {
		return nil, err
	}
	return k.open(newPlaintext(message), message, aad)
}

// AppendOpen is [OpenKey.Open] appending the plaintext to dst, with no
// allocation if it fits. The spare capacity of dst must not overlap message or
// aad ([ErrInvalid]); after a failure it holds no plaintext.
func (k *OpenKey) AppendOpen(dst, message, aad []byte) ([]byte, error) {
	if err := checkMessage(message); err != nil {
		return nil, err
	}
	if err := checkDst("open", dst, message, aad); err != nil {
		return nil, err
	}
	return k.open(dst, message, aad)
}

// open is AppendOpen after all checks.
func (k *OpenKey) open(dst, message, aad []byte) ([]byte, error) {
	sel := selector(message[:selectorSize])
	r := k.ready.Load()
	if r == nil || r.selector != sel {
		return k.openSlowly(dst, sel, message, aad)
	}
	plaintext, err := r.aead.Open(dst, nil, message[selectorSize:], aad)
	if err != nil {
		return nil, k.notAuthentic()
	}
	return plaintext, nil
}

// openSlowly derives the sub-key of sel, and keeps it if there is none yet.
func (k *OpenKey) openSlowly(dst []byte, sel selector, message, aad []byte) ([]byte, error) {
	k.mu.Lock()
	key, wiped := k.key, k.wiped
	k.mu.Unlock()
	defer clear(key[:])
	if wiped {
		return nil, &Error{Class: ErrInvalid, Op: "open", Key: k.keyIDs[0], Err: errWiped}
	}
	aead, err := newMessageAEAD(&key, sel)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(dst, nil, message[selectorSize:], aad)
	if err != nil {
		return nil, k.notAuthentic()
	}
	k.keep(&readyAEAD{sel, aead})
	return plaintext, nil
}

// keep makes r the ready AEAD, unless there is one or the key was wiped.
func (k *OpenKey) keep(r *readyAEAD) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.wiped {
		k.ready.CompareAndSwap(nil, r)
	}
}

func (k *OpenKey) notAuthentic() error {
	return &Error{Class: ErrCorrupt, Op: "open", Key: k.keyIDs[0], Err: errNotAuthentic}
}

// Wipe overwrites the key and drops the ciphers made of it. Calls of Open that
// are under way still end well, later ones fail with [ErrInvalid]. The expanded
// key inside a cipher is crypto/aes's own: it cannot be overwritten and lasts
// until the garbage collector reuses its memory.
func (k *OpenKey) Wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wiped = true
	k.key = [32]byte{}
	k.ready.Store(nil)
}

// newPlaintext returns the room for a message's plaintext, never nil: an empty
// plaintext is still one.
func newPlaintext(message []byte) []byte { return make([]byte, 0, len(message)-MessageOverhead) }

// checkMessage refuses what cannot be a message, before any key is fetched.
func checkMessage(message []byte) error {
	if len(message) < MessageOverhead {
		return corrupt("open", "%d bytes are too few for a message", len(message))
	}
	return nil
}
