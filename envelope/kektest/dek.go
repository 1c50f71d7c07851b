package kektest

//lint:file-ignore ST1005 Messages begin with the name of the method that they are about.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/keyfold/keyfold/envelope"
)

// dekChecks are about DEKs that go round.
func dekChecks() []check {
	return []check{
		{name: "round-trip", run: func(ctx context.Context, s Subject) error { return works(ctx, s.KEK) }},
		{name: "bounds", run: checkBounds},
		{name: "two-deks", run: checkTwoDEKs},
		{name: "sizes", run: checkSizes},
		{name: "callers-slices", run: checkCallersSlices},
		{name: "concurrency", run: checkConcurrency},
		{name: "envelope", run: checkEnvelope},
	}
}

func checkBounds(ctx context.Context, s Subject) error {
	dek, w, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name     string
		size, to int
	}{
		{"KeyID", len(w.KeyID), envelope.MaxKeyIDSize},
		{"Algorithm", len(w.Algorithm), envelope.MaxAlgorithmSize},
		{"Blob", len(w.Blob), envelope.MaxBlobSize},
	} {
		if f.size < 1 || f.size > f.to {
			return fmt.Errorf("%s has %d bytes, want 1 to %d", f.name, f.size, f.to)
		}
	}
	if bytes.Contains(w.Blob, dek) || bytes.Contains([]byte(w.KeyID+w.Algorithm), dek) {
		return errors.New("the wrapped key holds the DEK in the clear")
	}
	return nil
}

// checkTwoDEKs wraps one DEK twice and another once. Equal blobs are no fault:
// AES key wrap (RFC 3394) is deterministic.
func checkTwoDEKs(ctx context.Context, s Subject) error {
	dek, w1, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	w2, err := s.KEK.Wrap(ctx, bytes.Clone(dek))
	if err != nil {
		return fmt.Errorf("second Wrap of one DEK: %w", err)
	}
	w2 = clone(w2)
	other, w3, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	for _, w := range []envelope.WrappedKey{w2, w3} {
		if w.KeyID != w1.KeyID || w.Algorithm != w1.Algorithm {
			return fmt.Errorf("key id or algorithm changed between wraps: %s %s, then %s %s", w1.KeyID, w1.Algorithm, w.KeyID, w.Algorithm)
		}
	}
	return errors.Join(opens(ctx, s.KEK, w3, other), opens(ctx, s.KEK, w2, dek), opens(ctx, s.KEK, w1, dek))
}

// checkSizes: a KEK may refuse sizes that no envelope uses but may not alter them.
func checkSizes(ctx context.Context, s Subject) error {
	for _, n := range []int{0, 1, 16, 24, 31, 33, 48, 64, 190, 5000} {
		what := fmt.Sprintf("Wrap of %d bytes", n)
		dek := newDEK(n)
		w, err := s.KEK.Wrap(ctx, dek)
		if err != nil {
			if err := expect(what, err, envelope.ErrInvalid); err != nil {
				return err
			}
			continue
		}
		if err := opens(ctx, s.KEK, w, dek); err != nil {
			return fmt.Errorf("%s succeeded, then %w", what, err)
		}
	}
	return nil
}

// checkCallersSlices: an API server goes on using the very bytes that it hands
// over, and a caller wipes those that it gets.
func checkCallersSlices(ctx context.Context, s Subject) error {
	// The caller's slice has room behind it, which is the caller's too.
	backing := newDEK(3 * envelope.DEKSize)
	dek, before := backing[envelope.DEKSize:2*envelope.DEKSize], bytes.Clone(backing)
	w, err := s.KEK.Wrap(ctx, dek)
	if err != nil {
		return fmt.Errorf("Wrap: %w", err)
	}
	if !bytes.Equal(backing, before) {
		return errors.New("Wrap changed the caller's bytes")
	}
	want := bytes.Clone(dek)
	clear(backing)
	saved := clone(w)
	if err := opens(ctx, s.KEK, saved, want); err != nil {
		return fmt.Errorf("after the caller wiped the DEK that it had wrapped: %w", err)
	}
	if other, err := s.KEK.Wrap(ctx, newDEK(envelope.DEKSize)); err != nil {
		return fmt.Errorf("Wrap: %w", err)
	} else if !bytes.Equal(w.Blob, saved.Blob) {
		return errors.New("a later Wrap changed the blob that an earlier one returned")
	} else {
		clear(other.Blob)
	}

	backing = append(append(newDEK(16), saved.Blob...), newDEK(16)...)
	before = bytes.Clone(backing)
	in := saved
	in.Blob = backing[16 : 16+len(saved.Blob)]
	first, err := s.KEK.Unwrap(ctx, in)
	if err != nil {
		return fmt.Errorf("Unwrap: %w", err)
	}
	if !bytes.Equal(backing, before) {
		return errors.New("Unwrap changed the caller's bytes")
	}
	clear(first)
	if !bytes.Equal(backing, before) {
		return errors.New("the DEK from Unwrap lies in the caller's blob")
	}
	if err := opens(ctx, s.KEK, saved, want); err != nil {
		return fmt.Errorf("after the caller wiped the DEK that Unwrap had returned: %w", err)
	}
	return nil
}

func checkConcurrency(ctx context.Context, s Subject) error {
	const callers, rounds = 8, 4
	shared, sharedWrap, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for range rounds {
				err := recovered(func() error { return errors.Join(works(ctx, s.KEK), opens(ctx, s.KEK, sharedWrap, shared)) })
				if err != nil {
					errs[i] = err
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func checkEnvelope(ctx context.Context, s Subject) error {
	sealer, err := envelope.NewSealer(s.KEK, envelope.SealerOptions{})
	if err != nil {
		return err
	}
	defer sealer.Close()
	plaintext, aad := []byte("a message"), []byte("its place")
	env, err := sealer.Seal(ctx, plaintext, aad)
	if err != nil {
		return err
	}
	opener := envelope.NewOpener(s.KEK)
	got, err := opener.Open(ctx, env, aad)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, plaintext) {
		return errors.New("an envelope opened to another message")
	}
	_, err = opener.Open(ctx, env, []byte("another place"))
	return expect("Open at another place", err, envelope.ErrCorrupt)
}
