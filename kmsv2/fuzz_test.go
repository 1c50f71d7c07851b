package kmsv2_test

import (
	"bytes"
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/kmsv2"
)

// FuzzDecrypt: nothing but the very request that was written opens, and whatever
// else is sent is the sender's mistake, never ours.
func FuzzDecrypt(f *testing.F) {
	v := newVault(f)
	p := start(f, setup{ring: v.current(v.key("kek")), quiet: true})
	p.status()
	r := p.encrypt("seed")
	header := r.Annotations[kmsv2.AnnotationHeader]
	f.Add(r.KeyID, r.Ciphertext, header)
	f.Add(r.KeyID, r.Ciphertext[:len(r.Ciphertext)-1], header)
	f.Add(r.KeyID+".1", r.Ciphertext, header)
	f.Add("", []byte{}, []byte("KFE\x01\x01"))
	f.Fuzz(func(t *testing.T, keyID string, ciphertext, h []byte) {
		got, err := p.Decrypt(context.Background(), "", &service.DecryptRequest{
			KeyID: keyID, Ciphertext: ciphertext, Annotations: map[string][]byte{kmsv2.AnnotationHeader: h},
		})
		written := keyID == r.KeyID && bytes.Equal(ciphertext, r.Ciphertext) && bytes.Equal(h, header)
		switch code := kmsv2.Code(err); {
		case written:
			if string(got) != "seed" {
				t.Errorf("Decrypt = %q, %v", got, err)
			}
		case got != nil || code != codes.InvalidArgument && code != codes.NotFound:
			t.Errorf("Decrypt = %q, %v", got, err)
		}
	})
}
