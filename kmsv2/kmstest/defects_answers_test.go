package kmstest_test

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/kmsv2/kmstest"
)

// What Status and Encrypt answer.
var defectiveAnswers = []defect{
	{"nothing answers", []string{"reachable"}, func(b *bent, o *kmstest.Options) {
		b.status = func(context.Context) (*service.StatusResponse, error) { return nil, errors.New("out of order") }
	}},
	{"Status answers nothing at all", []string{"reachable"}, func(b *bent, o *kmstest.Options) {
		b.status = func(context.Context) (*service.StatusResponse, error) { return nil, nil }
	}},
	{"Status waits for the vault for ever", []string{"reachable"}, func(b *bent, o *kmstest.Options) {
		b.status = func(context.Context) (*service.StatusResponse, error) { time.Sleep(time.Hour); return nil, nil }
	}},
	{"a version of KMS v1", []string{"status-version"}, func(b *bent, o *kmstest.Options) {
		b.onStatus(func(r *service.StatusResponse) { r.Version = "v1beta1" })
	}},
	{"a version that changes", []string{"status-version"}, func(b *bent, o *kmstest.Options) {
		var calls atomic.Int64
		b.onStatus(func(r *service.StatusResponse) {
			if calls.Add(1)%7 == 0 {
				r.Version = "v2beta1"
			}
		})
	}},
	{"a friendlier healthz", []string{"status-healthz", "restored-works"}, func(b *bent, o *kmstest.Options) {
		b.onStatus(func(r *service.StatusResponse) { r.Healthz = "OK" })
	}},
	{"a quota on Status", []string{"status-polled"}, func(b *bent, o *kmstest.Options) {
		// Sixty in a row, which is more than one API server makes in a row.
		var inARow atomic.Int64
		b.status = func(ctx context.Context) (*service.StatusResponse, error) {
			if inARow.Add(1) > 60 {
				inARow.Store(0)
				return nil, errors.New("too many requests")
			}
			return b.memory.Status(ctx)
		}
		b.onAnswer(func([]byte, *service.EncryptResponse) { inARow.Store(0) })
	}},

	{"a key id of more than 1 KiB", []string{"key-id-size"}, func(b *bent, o *kmstest.Options) {
		long := strings.Repeat("k", 1024)
		b.rename(func(id string) string { return long + id }, func(id string) string {
			rest, ok := strings.CutPrefix(id, long)
			if !ok {
				return "unknown"
			}
			return rest
		})
	}},
	{"a key id in binary", []string{"key-id-size"}, func(b *bent, o *kmstest.Options) {
		b.rename(func(id string) string { return "\xff" + id }, func(id string) string {
			rest, ok := strings.CutPrefix(id, "\xff")
			if !ok {
				return "unknown"
			}
			return rest
		})
	}},
	{"no key id before the first rotation", []string{"key-id-size"}, func(b *bent, o *kmstest.Options) {
		first := b.current
		b.rename(func(id string) string { return strings.TrimPrefix(id, first) }, func(id string) string {
			switch id {
			case "":
				return first
			case first:
				return "unknown"
			}
			return id
		})
	}},
	{"a new key at every Status", []string{"key-id-stable", "rotation-once", "restart-key-id"}, func(b *bent, o *kmstest.Options) {
		b.status = func(ctx context.Context) (*service.StatusResponse, error) {
			if err := b.rotate(ctx); err != nil {
				return nil, err
			}
			return b.memory.Status(ctx)
		}
	}},

	{"the key id of a local key from Encrypt", []string{"encrypt-key-id", "rotation-encrypt-key-id"}, func(b *bent, o *kmstest.Options) {
		b.onAnswer(func(_ []byte, r *service.EncryptResponse) { r.KeyID += "/local" })
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			remote, ok := strings.CutSuffix(req.KeyID, "/local")
			if !ok {
				return nil, errors.New("unknown key")
			}
			return b.memory.Decrypt(ctx, uid, &service.DecryptRequest{Ciphertext: req.Ciphertext, KeyID: remote, Annotations: req.Annotations})
		}
	}},
	{"a ciphertext as large as an ML-KEM encapsulation", []string{"ciphertext-size"}, func(b *bent, o *kmstest.Options) {
		frame := make([]byte, 1088)
		b.onAnswer(func(_ []byte, r *service.EncryptResponse) {
			r.Ciphertext = append(slices.Clone(frame), r.Ciphertext...)
		})
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			rest, ok := strings.CutPrefix(string(req.Ciphertext), string(frame))
			if !ok {
				return nil, errors.New("bad frame")
			}
			return b.memory.Decrypt(ctx, uid, &service.DecryptRequest{Ciphertext: []byte(rest), KeyID: req.KeyID, Annotations: req.Annotations})
		}
	}},
	{"an empty ciphertext, with all in an annotation", []string{"ciphertext-size", "decrypt-changed-annotations"}, func(b *bent, o *kmstest.Options) {
		const name = "ciphertext.kms.example.com"
		b.onAnswer(func(_ []byte, r *service.EncryptResponse) {
			r.Annotations[name], r.Ciphertext = r.Ciphertext, nil
		})
		b.decrypt = func(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
			if len(req.Ciphertext) > 0 {
				return nil, errors.New("what is this?")
			}
			return b.memory.Decrypt(ctx, uid, &service.DecryptRequest{Ciphertext: req.Annotations[name], KeyID: req.KeyID, Annotations: req.Annotations})
		}
	}},
	{"a certificate chain as annotation", []string{"annotations-size"}, annotated("chain.kms.example.com", strings.Repeat("c", 32*1024))},
	{"an annotation as in the Kubernetes documentation", []string{"annotation-names"}, annotated("kms.kubernetes.io/local-kek", "x")},
	{"an annotation of one label", []string{"annotation-names"}, annotated("local-kek", "x")},
	{"an annotation in upper case", []string{"annotation-names"}, annotated("KEK.example.com", "x")},
	{"an annotation with a label of 64 bytes", []string{"annotation-names"}, annotated(strings.Repeat("a", 64)+".com", "x")},
	{"a debugging aid in an annotation", []string{"plaintext-hidden"}, func(b *bent, o *kmstest.Options) {
		b.onAnswer(func(plaintext []byte, r *service.EncryptResponse) {
			r.Annotations["debug.kms.example.com"] = []byte(base64.StdEncoding.EncodeToString(plaintext))
		})
	}},
	{"a store that is indexed by the first half of the plaintext", []string{"answers-distinct"}, func(b *bent, o *kmstest.Options) {
		var store answers
		b.encrypt = func(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
			half := string(plaintext[:len(plaintext)/2])
			if len(plaintext) != 32 {
				half = string(plaintext) // only seeds collide
			}
			r, err := b.memory.Encrypt(ctx, uid, plaintext)
			if err != nil {
				return nil, err
			}
			return store.loadOrStore(half+r.KeyID, r), nil
		}
	}},
}
