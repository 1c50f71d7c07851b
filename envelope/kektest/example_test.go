package kektest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/envelope/kektest"
)

// A back end's test is one call; this one would be named TestKEK.
func ExampleRun() {
	_ = func(t *testing.T) {
		kektest.Run(t, func(t *testing.T) kektest.Subject {
			v := newVault("kek")
			return kektest.Subject{
				KEK:     memKEK{vault: v},
				Foreign: memKEK{vault: newVault("foreign")},
				Rotate:  func(context.Context) error { v.rotate(); return nil },
			}
		})
	}
}

// plaintextKEK shows why one wants the suite: it round-trips.
type plaintextKEK string

func (k plaintextKEK) Wrap(_ context.Context, dek []byte) (envelope.WrappedKey, error) {
	return envelope.WrappedKey{KeyID: string(k), Algorithm: "none", Blob: dek}, nil
}

func (k plaintextKEK) Unwrap(_ context.Context, w envelope.WrappedKey) ([]byte, error) {
	return w.Blob, nil
}

func ExampleCheck() {
	for _, r := range kektest.Check(context.Background(), kektest.Subject{KEK: plaintextKEK("mine"), Foreign: plaintextKEK("yours")}) {
		switch {
		case r.Err != nil:
			fmt.Println("failed:", r.Name)
		case r.Skipped == "":
			fmt.Println("passed:", r.Name)
		}
	}
	// Output:
	// passed: round-trip
	// failed: bounds
	// passed: two-deks
	// passed: sizes
	// failed: callers-slices
	// passed: concurrency
	// passed: envelope
	// failed: foreign-key
	// failed: foreign-blob
	// failed: wrong-algorithm
	// failed: blob-flips
	// failed: blob-lengths
	// passed: error-text
	// failed: canceled-context
	// failed: expired-context
}
