package kmstest_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/kmsv2/kmstest"
)

// What happens to a plugin in its life: rotations, restarts, the loss of its key.
var defectiveLives = []defect{
	{"a key id read at start only", []string{"rotation-key-id"}, func(b *bent, o *kmstest.Options) {
		o.Rotate = func(context.Context) error { return nil }
	}},
	{"two vault replicas that disagree for a while", []string{"rotation-once"}, func(b *bent, o *kmstest.Options) {
		var left atomic.Int64
		var old atomic.Value
		o.Rotate = func(ctx context.Context) error {
			old.Store(b.current)
			left.Store(20)
			return b.rotate(ctx)
		}
		var reported atomic.Value
		b.onStatus(func(r *service.StatusResponse) {
			if n := left.Add(-1); n > 0 && n%3 == 0 {
				r.KeyID = old.Load().(string)
			}
			reported.Store(r.KeyID)
		})
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			return b.encryptUnder(plaintext, reported.Load().(string))
		}
	}},
	{"key ids that alternate between two slots", []string{"rotation-key-id-new"}, func(b *bent, o *kmstest.Options) {
		var a, z string
		o.Rotate = func(ctx context.Context) error {
			if a == "" {
				a = b.current
				err := b.rotate(ctx)
				z = b.current
				return err
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			b.current = map[string]string{a: z, z: a}[b.current]
			return nil
		}
	}},
	{"Encrypt that learns of a rotation later than Status", []string{"rotation-encrypt-key-id"}, func(b *bent, o *kmstest.Options) {
		var lag atomic.Int64
		var old string
		o.Rotate = func(ctx context.Context) error {
			old = b.current
			lag.Store(10)
			return b.rotate(ctx)
		}
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			if lag.Add(-1) > 0 {
				return b.encryptUnder(plaintext, old)
			}
			return b.memory.Encrypt(ctx, uid, plaintext)
		}
	}},
	{"old keys thrown away", []string{"rotation-old-data"}, func(b *bent, o *kmstest.Options) {
		o.Rotate = func(ctx context.Context) error {
			b.mu.Lock()
			delete(b.keys, b.current)
			b.mu.Unlock()
			return b.rotate(ctx)
		}
	}},
	{"every key of the plugin is tried", []string{"rotation-swapped-key-id"}, func(b *bent, o *kmstest.Options) {
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			if !slices.Contains(b.ids(), req.KeyID) {
				return nil, errors.New("unknown key")
			}
			return b.tryAll(ctx, uid, req)
		}
	}},

	{"a new key id at each start", []string{"restart-key-id"}, func(b *bent, o *kmstest.Options) {
		o.Restart = b.rotate
	}},
	{"a key that lives in memory only", []string{"restart-old-data"}, func(b *bent, o *kmstest.Options) {
		o.Restart = func(context.Context) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.keys[b.current] = newAEAD()
			return nil
		}
	}},
	{"a restart that does not come up", []string{"restart-key-id", "restart-old-data"}, func(b *bent, o *kmstest.Options) {
		// Down for longer than the plugin may take.
		var downUntil atomic.Int64
		o.Restart = func(context.Context) error {
			downUntil.Store(time.Now().Add(61 * time.Second).UnixNano())
			return nil
		}
		b.status = func(ctx context.Context) (*service.StatusResponse, error) {
			if time.Now().UnixNano() < downUntil.Load() {
				return nil, errors.New("starting")
			}
			return b.memory.Status(ctx)
		}
	}},

	{"a healthz that tells of the revocation", []string{"revoked-status-fails"}, func(b *bent, o *kmstest.Options) {
		b.status = func(ctx context.Context) (*service.StatusResponse, error) {
			r, err := b.memory.Status(ctx)
			if err != nil {
				return &service.StatusResponse{Version: "v2", Healthz: err.Error(), KeyID: b.current}, nil
			}
			return r, nil
		}
	}},
	{"a failure that sticks", []string{"restored-works"}, func(b *bent, o *kmstest.Options) {
		var failed atomic.Bool
		b.status = func(ctx context.Context) (*service.StatusResponse, error) {
			r, err := b.memory.Status(ctx)
			if err != nil || failed.Load() {
				failed.Store(true)
				return nil, errors.New("key revoked")
			}
			return r, nil
		}
	}},
}
