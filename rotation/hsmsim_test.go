package rotation_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
	"github.com/keyfold/keyfold/rotation"
)

// The life of a key on the simulated HSM: rotated, expired, disabled, given back.
func TestOnTheSimulatedHSM(t *testing.T) {
	for _, spec := range []hsmsim.KeySpec{"AES-256", "RSA-2048"} {
		t.Run(string(spec), func(t *testing.T) {
			now := time.Now()
			clock := func() time.Time { return now }
			ctx := t.Context()
			hsm, err := hsmsim.Open(filepath.Join(t.TempDir(), "hsm"), hsmsim.Options{Now: clock})
			if err != nil {
				t.Fatal(err)
			}
			defer hsm.Close()
			first, err := hsm.CreateKey(ctx, "kek", spec)
			if err != nil {
				t.Fatal(err)
			}
			kek := func(version string) envelope.KEK {
				k, err := hsm.KEK(hsmsim.Ref{Name: "kek", Version: version})
				if err != nil {
					t.Fatal(err)
				}
				return k
			}
			r := newRing(t, one(kek(first.Version)), rotation.Options{Now: clock})
			wantState(t, r.Probe(ctx), rotation.Healthy)
			old := mustWrap(t, r)

			second, err := hsm.Rotate(ctx, "kek")
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Reload(two(kek(second.Version), kek(first.Version))); err != nil {
				t.Fatal(err)
			}
			wantState(t, r.Probe(ctx), rotation.Healthy)
			w := mustWrap(t, r)
			if w.KeyID == old.KeyID || w.KeyID != r.Writer().KeyID {
				t.Errorf("wrapped under %s after the rotation, before it under %s", w.KeyID, old.KeyID)
			}
			mustUnwrap(t, r, old)

			if err := hsm.SetExpiry(ctx, "kek", second.Version, now.Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
			now = now.Add(2 * time.Hour)
			wantState(t, r.Probe(ctx), rotation.Expired)
			_, err = r.Wrap(ctx, dek)
			wantClass(t, err, envelope.ErrExpired)
			mustUnwrap(t, r, w)

			if err := hsm.SetEnabled(ctx, "kek", second.Version, false); err != nil {
				t.Fatal(err)
			}
			wantState(t, r.Probe(ctx), rotation.Unavailable)
			now = now.Add(3 * time.Second)
			wantState(t, r.Probe(ctx), rotation.Revoked)
			_, err = r.Unwrap(ctx, w)
			wantClass(t, err, envelope.ErrRevoked)
			mustUnwrap(t, r, old)

			if err := hsm.SetEnabled(ctx, "kek", second.Version, true); err != nil {
				t.Fatal(err)
			}
			wantState(t, r.Probe(ctx), rotation.Expired)
			mustUnwrap(t, r, w)
		})
	}
}

// A rotation: the new version writes, the old one still reads.
func ExampleRing_Reload() {
	dir, err := os.MkdirTemp("", "keyfold-*")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	hsm, err := hsmsim.Open(dir, hsmsim.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer hsm.Close()
	ctx := context.Background()
	kek := func(v hsmsim.KeyVersion) rotation.Key {
		k, err := hsm.KEK(hsmsim.Ref{Name: "kek", Version: v.Version})
		if err != nil {
			fmt.Println(err)
		}
		return rotation.Key{KEK: k}
	}

	v1, err := hsm.CreateKey(ctx, "kek", "AES-256")
	if err != nil {
		fmt.Println(err)
		return
	}
	ring, err := rotation.New(rotation.Config{Current: kek(v1)}, rotation.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	wrapped, err := ring.Wrap(ctx, []byte("a data-encryption key of 32 bytes"))
	if err != nil {
		fmt.Println(err)
		return
	}

	v2, err := hsm.Rotate(ctx, "kek")
	if err != nil {
		fmt.Println(err)
		return
	}
	previous := kek(v1)
	if err := ring.Reload(rotation.Config{Current: kek(v2), Previous: &previous}); err != nil {
		fmt.Println(err)
		return
	}
	_, err = ring.Unwrap(ctx, wrapped)
	fmt.Println("the old wrap opens:", err == nil)
	fmt.Println("new wraps carry another id:", ring.Writer().KeyID != wrapped.KeyID)

	err = ring.Reload(rotation.Config{Current: rotation.Key{}})
	fmt.Println(err)
	// Output:
	// the old wrap opens: true
	// new wraps carry another id: true
	// validate ring: invalid argument: current has no key; remedy: configure a key for current
}
