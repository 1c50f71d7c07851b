package hsmsim_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// FuzzState puts arbitrary bytes in the place of the state file, as they are and
// with a checksum that fits, so that what lies behind it is reached as well. Only
// the very file that was written opens.
func FuzzState(f *testing.F) {
	h, dir := open(f, hsmsim.Options{})
	if _, err := h.CreateKey(f.Context(), "kek", hsmsim.AES256); err != nil {
		f.Fatal(err)
	}
	h.Close()
	path := filepath.Join(dir, "hsm.state")
	state, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(state)
	f.Add(state[:len(state)-sha256.Size])
	f.Add([]byte("KFHSMSIM\x01\x02"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := sha256.Sum256(b)
		for _, file := range [][]byte{b, append(bytes.Clone(b), sum[:]...)} {
			// Truncating a file in place makes ext4 write it to disk, which is slow.
			os.Remove(path)
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			h, err := hsmsim.Open(dir, hsmsim.Options{})
			if err == nil {
				h.Close()
			}
			if (err == nil) != bytes.Equal(file, state) {
				t.Fatalf("Open: %v", err)
			}
			// A file of the right form under another key is not corrupt.
			if err != nil && !errors.Is(err, envelope.ErrCorrupt) && !errors.Is(err, envelope.ErrUnauthenticated) {
				t.Fatalf("Open: %v, want ErrCorrupt or ErrUnauthenticated", err)
			}
			const smallest = 35 + 12 + 16 + sha256.Size // header, nonce, tag, checksum
			if len(file) < smallest && !errors.Is(err, envelope.ErrCorrupt) {
				t.Fatalf("Open: %v, want ErrCorrupt", err)
			}
		}
	})
}

// FuzzUnwrap gives a KEK arbitrary wrapped keys. Only those that it made open, and
// the classes of all others are those of stored data.
func FuzzUnwrap(f *testing.F) {
	h, _ := open(f, hsmsim.Options{})
	made := map[string][]byte{}
	var keks []envelope.KEK
	for _, spec := range []hsmsim.KeySpec{hsmsim.AES256, hsmsim.RSA2048} {
		if _, err := h.CreateKey(f.Context(), string(spec), spec); err != nil {
			f.Fatal(err)
		}
		kek := mustKEK(f, h, hsmsim.Ref{Name: string(spec)})
		w, err := kek.Wrap(f.Context(), make([]byte, 32))
		if err != nil {
			f.Fatal(err)
		}
		made[w.KeyID+w.Algorithm] = w.Blob
		keks = append(keks, kek)
		f.Add(w.KeyID, w.Algorithm, w.Blob)
		f.Add(w.KeyID+".1", w.Algorithm, w.Blob)
		f.Add(w.KeyID, "RSA1_5", w.Blob)
		f.Add(w.KeyID, w.Algorithm, w.Blob[1:])
	}
	f.Add("", "", []byte(nil))
	f.Fuzz(func(t *testing.T, keyID, algorithm string, blob []byte) {
		before := bytes.Clone(blob)
		opened := false
		for _, kek := range keks {
			dek, err := kek.Unwrap(t.Context(), envelope.WrappedKey{KeyID: keyID, Algorithm: algorithm, Blob: blob})
			switch {
			case err == nil:
				opened = true
			case dek != nil:
				t.Fatalf("a DEK beside %v", err)
			case !errors.Is(err, envelope.ErrUnknownKey) && !errors.Is(err, envelope.ErrCorrupt) && !errors.Is(err, envelope.ErrDeleted):
				t.Fatalf("Unwrap: %v", err)
			}
		}
		want, ok := made[keyID+algorithm]
		if opened != (ok && bytes.Equal(want, blob)) {
			t.Fatalf("opened: %t", opened)
		}
		if !bytes.Equal(blob, before) {
			t.Fatal("Unwrap changed the blob")
		}
	})
}
