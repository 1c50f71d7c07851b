package kektest

//lint:file-ignore ST1005 Messages begin with the name of the method that they are about.

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/keyfold/keyfold/envelope"
)

// classes are all of them, each with the wider one it belongs to.
var classes = []struct{ is, within error }{
	{envelope.ErrUnreachable, nil},
	{envelope.ErrThrottled, nil},
	{envelope.ErrUnauthenticated, nil},
	{envelope.ErrForbidden, nil},
	{envelope.ErrExpired, nil},
	{envelope.ErrNotYetValid, nil},
	{envelope.ErrRevoked, nil},
	{envelope.ErrDisabled, envelope.ErrRevoked},
	{envelope.ErrDeleted, envelope.ErrRevoked},
	{envelope.ErrCorrupt, nil},
	{envelope.ErrUnknownKey, nil},
	{envelope.ErrInvalid, nil},
}

// expect checks that err is of one of the wanted classes and of no other: policies
// decide by class, and an error of two would be treated as whichever is asked first.
func expect(what string, err error, want ...error) error {
	if err == nil {
		return fmt.Errorf("%s: succeeded, want %v", what, errors.Join(want...))
	}
	i := slices.IndexFunc(want, func(w error) bool { return errors.Is(err, w) })
	if i < 0 {
		return fmt.Errorf("%s: got %q, want class %v", what, err, errors.Join(want...))
	}
	for _, c := range classes {
		if !errors.Is(err, c.is) || slices.Contains(want, c.is) {
			continue
		}
		if !slices.ContainsFunc(classes, func(w struct{ is, within error }) bool { return w.is == want[i] && w.within == c.is }) {
			return fmt.Errorf("%s: %q is of class %v and also of %v", what, err, want[i], c.is)
		}
	}
	return nil
}

// newDEK returns n random bytes.
func newDEK(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// wrap wraps a new DEK.
func wrap(ctx context.Context, k envelope.Wrapper) (dek []byte, w envelope.WrappedKey, err error) {
	dek = newDEK(envelope.DEKSize)
	w, err = k.Wrap(ctx, bytes.Clone(dek))
	if err != nil {
		return nil, w, fmt.Errorf("Wrap: %w", err)
	}
	return dek, clone(w), nil
}

// opens checks that w unwraps to dek.
func opens(ctx context.Context, u envelope.Unwrapper, w envelope.WrappedKey, dek []byte) error {
	got, err := u.Unwrap(ctx, clone(w))
	if err != nil {
		return fmt.Errorf("Unwrap: %w", err)
	}
	if !bytes.Equal(got, dek) {
		return fmt.Errorf("Unwrap returned %d bytes that are not the DEK of %d", len(got), len(dek))
	}
	return nil
}

// works checks a round trip.
func works(ctx context.Context, k envelope.KEK) error {
	dek, w, err := wrap(ctx, k)
	if err != nil {
		return err
	}
	return opens(ctx, k, w, dek)
}

// refuses checks that Unwrap fails with a wanted class and yields no DEK.
func refuses(ctx context.Context, what string, u envelope.Unwrapper, w envelope.WrappedKey, want ...error) error {
	got, err := u.Unwrap(ctx, clone(w))
	if err := expect("Unwrap of "+what, err, want...); err != nil {
		return err
	}
	if len(got) != 0 {
		return fmt.Errorf("Unwrap of %s: returned %d bytes beside the error", what, len(got))
	}
	return nil
}

// clone gives each call bytes of its own, so that one that changes them is caught
// by the check made for that and by no other.
func clone(w envelope.WrappedKey) envelope.WrappedKey {
	w.Blob = bytes.Clone(w.Blob)
	return w
}
