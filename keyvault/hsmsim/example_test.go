package hsmsim_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// A key rotates and what its older version sealed still opens; once that version
// is disabled, the error says so.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "hsmsim")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	h, err := hsmsim.Open(filepath.Join(dir, "hsm"), hsmsim.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer h.Close()

	// Created if missing: another process may have been faster.
	if _, err := h.CreateKey(ctx, "kek", hsmsim.AES256); err != nil && !errors.Is(err, hsmsim.ErrExists) {
		log.Fatal(err)
	}
	kek, err := h.KEK(hsmsim.Ref{Name: "kek"})
	if err != nil {
		log.Fatal(err)
	}
	sealer, err := envelope.NewSealer(kek, envelope.SealerOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer sealer.Close()
	env, err := sealer.Seal(ctx, []byte("a secret"), []byte("its name"))
	if err != nil {
		log.Fatal(err)
	}

	old, err := h.Key(ctx, "kek", "")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := h.Rotate(ctx, "kek"); err != nil {
		log.Fatal(err)
	}
	opener := envelope.NewOpener(kek)
	plaintext, err := opener.Open(ctx, env, []byte("its name"))
	fmt.Printf("%s %v\n", plaintext, err)

	if err := h.SetEnabled(ctx, "kek", old.Version, false); err != nil {
		log.Fatal(err)
	}
	_, err = opener.Open(ctx, env, []byte("its name"))
	fmt.Println(errors.Is(err, envelope.ErrDisabled))
	// Output:
	// a secret <nil>
	// true
}

// A test counts what a separate process asked of the HSM.
func ExampleReadLog() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "hsmsim")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	h, err := hsmsim.Open(filepath.Join(dir, "hsm"), hsmsim.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer h.Close()
	if _, err := h.CreateKey(ctx, "kek", hsmsim.AES256); err != nil {
		log.Fatal(err)
	}
	kek, err := h.KEK(hsmsim.Ref{Name: "kek"})
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		if _, err := kek.Wrap(ctx, make([]byte, envelope.DEKSize)); err != nil {
			log.Fatal(err)
		}
	}

	wraps := 0
	for entry, err := range hsmsim.ReadLog(filepath.Join(dir, "hsm")) {
		if err != nil {
			log.Fatal(err)
		}
		if entry.Operation == hsmsim.OpWrapKey && entry.Result == "ok" {
			wraps++
		}
	}
	fmt.Println(wraps, "wraps")
	// Output: 3 wraps
}
