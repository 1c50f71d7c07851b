package kmstest_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/kmsv2/kmstest"
)

// memory is a correct KMS in as few lines as possible: AES-256-GCM under keys in memory.
// The defective ones are made from it.
type memory struct {
	newKey  func() cipher.AEAD
	mu      sync.Mutex
	keys    map[string]cipher.AEAD
	current string
	revoked bool
}

var _ service.Service = (*memory)(nil)

const remark = "algorithm.kms.example.com"

func newMemory() *memory {
	m := &memory{newKey: newAEAD, keys: map[string]cipher.AEAD{}}
	m.rotate(context.Background())
	return m
}

func newAEAD() cipher.AEAD {
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// rotate, restart, revoke and restore are the hooks of kmstest.Options.
func (m *memory) rotate(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current = fmt.Sprintf("key-%d-%s", len(m.keys)+1, rand.Text())
	m.keys[m.current] = m.newKey()
	return nil
}

func (m *memory) restart(context.Context) error { return nil }

func (m *memory) revoke(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revoked = true
	return nil
}

func (m *memory) restore(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revoked = false
	return nil
}

func (m *memory) options() kmstest.Options {
	return kmstest.Options{Rotate: m.rotate, Restart: m.restart, Revoke: m.revoke, Restore: m.restore}
}

// key returns the key called id, or the current one for "".
func (m *memory) key(id string) (string, cipher.AEAD, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.revoked {
		return "", nil, errors.New("key revoked")
	}
	if id == "" {
		id = m.current
	}
	aead, ok := m.keys[id]
	if !ok {
		return "", nil, errors.New("unknown key")
	}
	return id, aead, nil
}

func (m *memory) Status(context.Context) (*service.StatusResponse, error) {
	id, _, err := m.key("")
	if err != nil {
		return nil, err
	}
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: id}, nil
}

func (m *memory) Encrypt(_ context.Context, _ string, plaintext []byte) (*service.EncryptResponse, error) {
	return m.encryptUnder(plaintext, "")
}

// encryptUnder uses the key called id, or the current one for "".
func (m *memory) encryptUnder(plaintext []byte, id string) (*service.EncryptResponse, error) {
	if len(plaintext) > 512 {
		return nil, errors.New("plaintext too large")
	}
	id, aead, err := m.key(id)
	if err != nil {
		return nil, err
	}
	return &service.EncryptResponse{
		Ciphertext:  aead.Seal(nil, nil, plaintext, []byte(id)),
		KeyID:       id,
		Annotations: map[string][]byte{remark: []byte("AES-256-GCM")},
	}, nil
}

func (m *memory) Decrypt(_ context.Context, _ string, req *service.DecryptRequest) ([]byte, error) {
	if req.KeyID == "" {
		return nil, errors.New("no key id")
	}
	id, aead, err := m.key(req.KeyID)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(req.Annotations[remark], []byte("AES-256-GCM")) {
		return nil, errors.New("unknown algorithm")
	}
	return aead.Open(nil, nil, req.Ciphertext, []byte(id))
}
