package kmstest_test

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/kmsv2/kmstest"
)

// How a plugin treats its caller, odd requests and many of them.
var defectiveManners = []defect{
	{"plaintext wiped after use", []string{"memory-respected"}, func(b *bent, o *kmstest.Options) {
		b.onAnswer(func(plaintext []byte, _ *service.EncryptResponse) { clear(plaintext) })
	}},
	{"decryption in place", []string{"memory-respected"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			p, err := b.memory.Decrypt(ctx, uid, req)
			if err == nil {
				copy(req.Ciphertext, p)
			}
			return p, err
		}
	}},
	{"a cache that hands out its own plaintext", []string{"memory-respected"}, func(b *bent, o *kmstest.Options) {
		var cache answers
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			p, err := b.memory.Decrypt(ctx, uid, req)
			if err != nil {
				return nil, err
			}
			r := cache.loadOrStore(string(req.Ciphertext), &service.EncryptResponse{Ciphertext: p})
			return r.Ciphertext, nil
		}
	}},
	{"a panic on an empty ciphertext", []string{"empty-requests", "decrypt-changed-ciphertext"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			if req.KeyID != "" && len(req.Ciphertext) == 0 {
				_ = req.Ciphertext[0]
			}
			return b.memory.Decrypt(ctx, uid, req)
		}
	}},
	{"nothing decrypts to nothing", []string{"empty-requests"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			if len(req.Ciphertext) == 0 && len(req.Annotations) == 0 {
				return nil, nil
			}
			return b.memory.Decrypt(ctx, uid, req)
		}
	}},
	{"an encryption that has no limit", []string{"oversize-requests"}, func(b *bent, o *kmstest.Options) {
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			if len(plaintext) > 1<<16 {
				return &service.EncryptResponse{Ciphertext: plaintext, KeyID: b.current}, nil
			}
			return b.memory.Encrypt(ctx, uid, plaintext)
		}
	}},
	{"a quadratic parser of ciphertexts", []string{"oversize-requests"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			n := time.Duration(len(req.Ciphertext))
			time.Sleep(n * n / 64 * time.Nanosecond)
			return b.memory.Decrypt(ctx, uid, req)
		}
	}},
	{"one request at a time, others turned away", []string{"concurrent-calls"}, func(b *bent, o *kmstest.Options) {
		var busy atomic.Bool
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			if !busy.CompareAndSwap(false, true) {
				return nil, errors.New("busy")
			}
			defer busy.Store(false)
			time.Sleep(time.Millisecond)
			return b.memory.Encrypt(ctx, uid, plaintext)
		}
	}},
	{"a lock that a cancelled call never gives back", []string{"ended-calls"}, func(b *bent, o *kmstest.Options) {
		lock := make(chan struct{}, 1)
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			select {
			case lock <- struct{}{}:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			select {
			case <-time.After(3 * time.Millisecond):
			case <-ctx.Done():
				// Given back after more than a call's time-out, so that the other rules
				// are not judged on a plugin that is dead already.
				time.AfterFunc(4*time.Second, func() { <-lock })
				return nil, ctx.Err()
			}
			defer func() { <-lock }()
			return b.memory.Encrypt(ctx, uid, plaintext)
		}
	}},
	{"a wait that does not watch its context", []string{"ended-calls"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			if ctx.Err() != nil {
				time.Sleep(time.Hour)
			}
			return b.memory.Decrypt(ctx, uid, req)
		}
	}},
	{"a vault on the other side of the world", []string{"latency"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			time.Sleep(2 * time.Second)
			return b.memory.Decrypt(ctx, uid, req)
		}
	}},
}
