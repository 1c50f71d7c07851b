package cache_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyfold/keyfold/envelope"
)

// fakeKEK is an AES key in memory that counts and can be disturbed.
type fakeKEK struct {
	id      string
	aead    cipher.AEAD
	unwraps atomic.Int64

	mu     sync.Mutex
	before func(ctx context.Context) error // called by Unwrap first
}

func newFakeKEK(id string) *fakeKEK {
	var key [32]byte
	rand.Read(key[:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return &fakeKEK{id: id, aead: aead}
}

func (k *fakeKEK) disturb(before func(ctx context.Context) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.before = before
}

func (k *fakeKEK) Wrap(_ context.Context, dek []byte) (envelope.WrappedKey, error) {
	return envelope.WrappedKey{KeyID: k.id, Algorithm: "fake", Blob: k.aead.Seal(nil, nil, dek, nil)}, nil
}

func (k *fakeKEK) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	k.unwraps.Add(1)
	k.mu.Lock()
	before := k.before
	k.mu.Unlock()
	if before != nil {
		if err := before(ctx); err != nil {
			return nil, err
		}
	}
	if !strings.HasPrefix(w.KeyID, k.id) {
		return nil, envelope.ErrUnknownKey
	}
	dek, err := k.aead.Open(nil, nil, w.Blob, nil)
	if err != nil {
		return nil, envelope.ErrCorrupt
	}
	return dek, nil
}

// sealed is one DEK: its header, and a message under it.
type sealed struct{ header, message []byte }

// seal makes a new DEK under k.
func (k *fakeKEK) seal(t testing.TB) sealed {
	t.Helper()
	s, err := envelope.NewSealer(k, envelope.SealerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	header, message, err := s.SealDetached(t.Context(), []byte("plaintext"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return sealed{header, message}
}

func (k *fakeKEK) header(t testing.TB) []byte { return k.seal(t).header }

// gate admits every key but those shut.
type gate struct {
	generation atomic.Uint64
	mu         sync.Mutex
	shut       []string
}

func newGate() *gate { return new(gate) }

func (g *gate) Generation() uint64 { return g.generation.Load() }

func (g *gate) Admits(id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !slices.Contains(g.shut, id)
}

// set shuts the gate for exactly these ids.
func (g *gate) set(ids ...string) {
	g.mu.Lock()
	g.shut = ids
	g.mu.Unlock()
	g.generation.Add(1)
}
