package hsmsim_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// TestRawOperations exercises what a vault's wire has, for both algorithms.
func TestRawOperations(t *testing.T) {
	h, _ := open(t, hsmsim.Options{})
	ctx := t.Context()
	for _, tt := range []struct {
		spec                 hsmsim.KeySpec
		algorithm            string
		aad                  []byte
		max                  int // largest plaintext
		ivSize, tagSize, out int // sizes; out for a plaintext of 3 bytes
	}{
		{hsmsim.AES256, hsmsim.A256GCM, []byte("context"), 1 << 20, 12, 16, 3},
		{hsmsim.AES256, hsmsim.A256GCM, nil, 1 << 20, 12, 16, 3},
		{hsmsim.RSA2048, hsmsim.RSAOAEP256, nil, 190, 0, 0, 256},
	} {
		name := string(tt.spec)
		if _, err := h.CreateKey(ctx, name, tt.spec); err != nil && !errors.Is(err, hsmsim.ErrExists) {
			t.Fatal(err)
		}
		plaintext := []byte("abc")
		sealed, err := h.Encrypt(ctx, name, "", hsmsim.Params{Algorithm: tt.algorithm, Value: plaintext, AAD: tt.aad})
		if err != nil {
			t.Fatal(err)
		}
		if len(sealed.IV) != tt.ivSize || len(sealed.Tag) != tt.tagSize || len(sealed.Value) != tt.out {
			t.Errorf("%s: iv %d, tag %d, value %d bytes", tt.algorithm, len(sealed.IV), len(sealed.Tag), len(sealed.Value))
		}
		back := hsmsim.Params{Algorithm: tt.algorithm, Value: sealed.Value, IV: sealed.IV, Tag: sealed.Tag, AAD: tt.aad}
		if got, err := h.Decrypt(ctx, name, sealed.Version, back); err != nil || string(got.Value) != "abc" || got.Version != sealed.Version {
			t.Errorf("%s: Decrypt: %+v, %v", tt.algorithm, got, err)
		}
		// Wrap and encrypt are one operation under two permissions.
		if got, err := h.UnwrapKey(ctx, name, "", back); err != nil || string(got.Value) != "abc" {
			t.Errorf("%s: UnwrapKey: %+v, %v", tt.algorithm, got, err)
		}
		if _, err := h.WrapKey(ctx, name, "", hsmsim.Params{Algorithm: tt.algorithm, Value: make([]byte, tt.max)}); err != nil {
			t.Errorf("%s: %d bytes: %v", tt.algorithm, tt.max, err)
		}

		changed := back
		changed.Value = bytes.Clone(back.Value)
		changed.Value[0] ^= 1
		wantError(t, second(h.Decrypt(ctx, name, sealed.Version, changed)), envelope.ErrCorrupt, "backup")

		// The latest version is the wrong one after a rotation.
		if _, err := h.Rotate(ctx, name); err != nil {
			t.Fatal(err)
		}
		wantError(t, second(h.Decrypt(ctx, name, "", back)), envelope.ErrCorrupt, "backup")
		if got, err := h.Decrypt(ctx, name, sealed.Version, back); err != nil || string(got.Value) != "abc" {
			t.Errorf("%s: after a rotation: %v", tt.algorithm, err)
		}
		wantError(t, second(h.Decrypt(ctx, name, strings.Repeat("0", 32), back)), envelope.ErrDeleted, "version")
	}
}

func TestRawOperationsRefuse(t *testing.T) {
	h, _ := open(t, hsmsim.Options{})
	ctx := t.Context()
	for _, spec := range []hsmsim.KeySpec{hsmsim.AES256, hsmsim.RSA2048} {
		if _, err := h.CreateKey(ctx, string(spec), spec); err != nil {
			t.Fatal(err)
		}
	}
	aes, rsa := string(hsmsim.AES256), string(hsmsim.RSA2048)
	for _, tt := range []struct {
		name, key string
		decrypt   bool
		p         hsmsim.Params
		class     error
		remedy    string
	}{
		{"RSA algorithm for AES", aes, false, hsmsim.Params{Algorithm: hsmsim.RSAOAEP256}, envelope.ErrInvalid, "use A256GCM"},
		{"AES algorithm for RSA", rsa, true, hsmsim.Params{Algorithm: hsmsim.A256GCM}, envelope.ErrInvalid, "use RSA-OAEP-256"},
		{"no algorithm", aes, false, hsmsim.Params{}, envelope.ErrInvalid, "use A256GCM"},
		{"RSA1_5", rsa, true, hsmsim.Params{Algorithm: "RSA1_5"}, envelope.ErrInvalid, "use RSA-OAEP-256"},
		{"an IV to encrypt with", aes, false, hsmsim.Params{Algorithm: hsmsim.A256GCM, IV: make([]byte, 12)}, envelope.ErrInvalid, "IV"},
		{"associated data for RSA", rsa, false, hsmsim.Params{Algorithm: hsmsim.RSAOAEP256, AAD: []byte("a")}, envelope.ErrInvalid, "AAD"},
		{"too much for RSA", rsa, false, hsmsim.Params{Algorithm: hsmsim.RSAOAEP256, Value: make([]byte, 191)}, envelope.ErrInvalid, "less"},
		{"no IV to decrypt with", aes, true, hsmsim.Params{Algorithm: hsmsim.A256GCM, Tag: make([]byte, 16)}, envelope.ErrInvalid, "returned"},
		{"a short tag", aes, true, hsmsim.Params{Algorithm: hsmsim.A256GCM, IV: make([]byte, 12), Tag: make([]byte, 12)}, envelope.ErrInvalid, "returned"},
		{"a short RSA ciphertext", rsa, true, hsmsim.Params{Algorithm: hsmsim.RSAOAEP256, Value: make([]byte, 255)}, envelope.ErrCorrupt, "backup"},
		{"no key", "none", true, hsmsim.Params{Algorithm: hsmsim.A256GCM}, envelope.ErrDeleted, "create the key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			call := h.Encrypt
			if tt.decrypt {
				call = h.Decrypt
			}
			res, err := call(ctx, tt.key, "", tt.p)
			wantError(t, err, tt.class, tt.remedy)
			if res.Value != nil {
				t.Errorf("a value beside the error: %+v", res)
			}
		})
	}
}

// TestOneEncoding: an RSA ciphertext that begins with zeros has one encoding all the
// same. One in 256 does; crypto/rsa would also take it without them.
func TestOneEncoding(t *testing.T) {
	h, _ := open(t, hsmsim.Options{})
	ctx := t.Context()
	if _, err := h.CreateKey(ctx, "kek", hsmsim.RSA2048); err != nil {
		t.Fatal(err)
	}
	p := hsmsim.Params{Algorithm: hsmsim.RSAOAEP256, Value: make([]byte, 32)}
	for range 20_000 { // all miss once in 10^34 runs
		sealed, err := h.Encrypt(ctx, "kek", "", p)
		if err != nil {
			t.Fatal(err)
		}
		if sealed.Value[0] != 0 {
			continue
		}
		p.Value = sealed.Value
		if _, err := h.Decrypt(ctx, "kek", "", p); err != nil {
			t.Fatal(err)
		}
		p.Value = sealed.Value[1:]
		wantError(t, second(h.Decrypt(ctx, "kek", "", p)), envelope.ErrCorrupt, "backup")
		return
	}
	t.Fatal("no ciphertext begins with zero")
}

// TestOnlyWrapsUnwrap: what a user of the AES key encrypts for another purpose does
// not pass for a wrapped DEK, thanks to the domain that wraps bind.
func TestOnlyWrapsUnwrap(t *testing.T) {
	h, _ := open(t, hsmsim.Options{})
	ctx := t.Context()
	v, err := h.CreateKey(ctx, "kek", hsmsim.AES256)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := h.Encrypt(ctx, "kek", "", hsmsim.Params{Algorithm: hsmsim.A256GCM, Value: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = mustKEK(t, h, hsmsim.Ref{Name: "kek"}).Unwrap(ctx, envelope.WrappedKey{
		KeyID: v.KeyID, Algorithm: hsmsim.A256GCM, Blob: bytes.Join([][]byte{sealed.IV, sealed.Value, sealed.Tag}, nil),
	})
	wantError(t, err, envelope.ErrCorrupt, "backup")
}
