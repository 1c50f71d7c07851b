package envelope_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"sync"

	"github.com/keyfold/keyfold/envelope"
)

// memKEK is a KEK in memory, AES-256-GCM under a random key. It counts its calls
// and fails when it is told to.
type memKEK struct {
	id   string
	aead cipher.AEAD

	mu             sync.Mutex
	wraps, unwraps int
	fail           error
	onWrap         func(ctx context.Context) error // runs outside the lock
}

var _ envelope.KEK = (*memKEK)(nil)

const memAlgorithm = "AES-256-GCM"

func newKEK(id string) *memKEK {
	block, err := aes.NewCipher(random(32))
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return &memKEK{id: id, aead: aead}
}

func (k *memKEK) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	k.mu.Lock()
	k.wraps++
	fail, hook := k.fail, k.onWrap
	k.mu.Unlock()
	if hook != nil {
		if err := hook(ctx); err != nil {
			return envelope.WrappedKey{}, err
		}
	}
	if fail != nil {
		return envelope.WrappedKey{}, fail
	}
	return envelope.WrappedKey{KeyID: k.id, Algorithm: memAlgorithm, Blob: k.aead.Seal(nil, nil, dek, nil)}, nil
}

func (k *memKEK) Unwrap(_ context.Context, w envelope.WrappedKey) ([]byte, error) {
	k.mu.Lock()
	k.unwraps++
	fail := k.fail
	k.mu.Unlock()
	if w.KeyID != k.id {
		return nil, &envelope.Error{Class: envelope.ErrUnknownKey, Op: "unwrap", Key: w.KeyID}
	}
	if fail != nil {
		return nil, fail
	}
	if w.Algorithm != memAlgorithm {
		return nil, &envelope.Error{Class: envelope.ErrCorrupt, Op: "unwrap", Key: w.KeyID, Err: errors.New("algorithm " + w.Algorithm)}
	}
	dek, err := k.aead.Open(nil, nil, w.Blob, nil)
	if err != nil {
		return nil, &envelope.Error{Class: envelope.ErrCorrupt, Op: "unwrap", Key: w.KeyID, Err: err}
	}
	return dek, nil
}

func (k *memKEK) setFail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = err
}

func (k *memKEK) setOnWrap(f func(context.Context) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.onWrap = f
}

func (k *memKEK) wrapCalls() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.wraps
}

func (k *memKEK) unwrapCalls() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.unwraps
}

// keyring is several KEKs behind one Unwrapper: the first that knows the key
// answers.
type keyring []*memKEK

var _ envelope.Unwrapper = keyring(nil)

func (r keyring) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	for _, k := range r {
		if k.id == w.KeyID {
			return k.Unwrap(ctx, w)
		}
	}
	return nil, &envelope.Error{Class: envelope.ErrUnknownKey, Op: "unwrap", Key: w.KeyID}
}
