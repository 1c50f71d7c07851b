package kmstest_test

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"slices"
	"strings"

	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/kmsv2/kmstest"
)

// What Decrypt accepts and returns.
var defectiveReading = []defect{
	{"a plaintext cut to the size of a seed", []string{"round-trip"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			p, err := b.memory.Decrypt(ctx, uid, req)
			return p[:min(len(p), 32)], err
		}
	}},
	{"zero bytes taken for padding", []string{"round-trip"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			p, err := b.memory.Decrypt(ctx, uid, req)
			if string(p) == string(make([]byte, 32)) {
				p = nil
			}
			return p, err
		}
	}},
	{"data that can be read once", []string{"round-trip"}, func(b *bent, o *kmstest.Options) {
		var reads answers
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			p, err := b.memory.Decrypt(ctx, uid, req)
			// Plaintexts of 24 bytes, so that only the rule about round trips sees it.
			if err == nil && len(p) == 24 && reads.count(string(req.Ciphertext)) > 1 {
				return nil, errors.New("already used")
			}
			return p, err
		}
	}},
	{"Encrypt made idempotent by uid", []string{"uid-irrelevant"}, func(b *bent, o *kmstest.Options) {
		var store answers
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			r, err := b.memory.Encrypt(ctx, uid, plaintext)
			if err != nil {
				return nil, err
			}
			return store.loadOrStore(uid, r), nil
		}
	}},
	{"a uid that is required", []string{"uid-irrelevant"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			if uid == "" {
				return nil, errors.New("no uid")
			}
			return b.memory.Decrypt(ctx, uid, req)
		}
	}},
	{"every key is tried", []string{"decrypt-unknown-key-id", "rotation-swapped-key-id", "oversize-requests"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			return b.tryAll(ctx, uid, req)
		}
	}},
	{"a key id found by its prefix", []string{"decrypt-unknown-key-id"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			found := *req
			for _, id := range b.ids() {
				if strings.HasPrefix(req.KeyID, id) {
					found.KeyID = id
				}
			}
			return b.memory.Decrypt(ctx, uid, &found)
		}
	}},
	{"AES-CTR without authentication", []string{"decrypt-changed-ciphertext", "oversize-requests", "rotation-swapped-key-id"}, func(b *bent, o *kmstest.Options) {
		b.newKey = newCTR
		b.keys = map[string]cipher.AEAD{b.current: newCTR()}
	}},
	{"trailing bytes ignored", []string{"decrypt-changed-ciphertext", "oversize-requests"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			p, err := b.memory.Decrypt(ctx, uid, req)
			const sealedSeed = 12 + 32 + 16
			if err != nil && len(req.Ciphertext) > sealedSeed {
				cut := *req
				cut.Ciphertext = req.Ciphertext[:sealedSeed]
				return b.memory.Decrypt(ctx, uid, &cut)
			}
			return p, err
		}
	}},
	{"a mask in an unauthenticated annotation", []string{"decrypt-changed-annotations"}, func(b *bent, o *kmstest.Options) {
		const name = "mask.kms.example.com"
		xor := func(p []byte, mask byte) []byte {
			p = slices.Clone(p)
			for i := range p {
				p[i] ^= mask
			}
			return p
		}
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			var mask [1]byte
			rand.Read(mask[:])
			r, err := b.memory.Encrypt(ctx, uid, xor(plaintext, mask[0]))
			if err == nil {
				r.Annotations[name] = mask[:]
			}
			return r, err
		}
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			if len(req.Annotations[name]) != 1 {
				return nil, errors.New("no mask")
			}
			p, err := b.memory.Decrypt(ctx, uid, req)
			return xor(p, req.Annotations[name][0]), err
		}
	}},
}
