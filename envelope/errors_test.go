package envelope_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/keyfold/keyfold/envelope"
)

func TestErrorClasses(t *testing.T) {
	classes := []error{
		envelope.ErrUnreachable, envelope.ErrThrottled, envelope.ErrUnauthenticated, envelope.ErrForbidden,
		envelope.ErrExpired, envelope.ErrNotYetValid, envelope.ErrRevoked, envelope.ErrDisabled, envelope.ErrDeleted,
		envelope.ErrCorrupt, envelope.ErrUnknownKey, envelope.ErrInvalid,
	}
	for _, class := range classes {
		err := fmt.Errorf("reading: %w", &envelope.Error{Class: class, Op: "unwrap", Err: io.EOF})
		if !errors.Is(err, io.EOF) {
			t.Errorf("%v hides its cause", err)
		}
		for _, other := range classes {
			want := other == class ||
				other == envelope.ErrRevoked && (class == envelope.ErrDisabled || class == envelope.ErrDeleted)
			if got := errors.Is(err, other); got != want {
				t.Errorf("%v is %v: %v, want %v", class, other, got, want)
			}
		}
	}
}

func TestErrorText(t *testing.T) {
	for _, test := range []struct {
		err  envelope.Error
		want string
	}{
		{envelope.Error{Class: envelope.ErrCorrupt}, "data corrupt or not authentic"},
		{envelope.Error{Class: envelope.ErrUnknownKey, Op: "unwrap", Key: "k"}, "unwrap: key k: unknown key"},
		{
			envelope.Error{
				Class: envelope.ErrForbidden, Op: "wrap", Key: "k", Status: 403, Code: "Forbidden", InnerCode: "ForbiddenByRbac",
				RequestID: "42", Remedy: "grant the role", Err: io.EOF,
			},
			"wrap: key k: operation forbidden by the key store: EOF (HTTP 403, Forbidden, ForbiddenByRbac, request 42); remedy: grant the role",
		},
	} {
		if got := test.err.Error(); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

// Whatever a back end returns, the caller gets a class, the cause, and a key.
func TestErrorsOfBackEnds(t *testing.T) {
	own := &envelope.Error{Class: envelope.ErrThrottled, Op: "unwrap", Key: "its own name", Status: 429}
	for _, test := range []struct{ fails, class, cause error }{
		{io.ErrUnexpectedEOF, envelope.ErrUnreachable, io.ErrUnexpectedEOF},
		{context.DeadlineExceeded, envelope.ErrUnreachable, context.DeadlineExceeded},
		{envelope.ErrDisabled, envelope.ErrDisabled, envelope.ErrRevoked},
		{fmt.Errorf("slot 1: %w", envelope.ErrExpired), envelope.ErrExpired, envelope.ErrExpired},
		{own, envelope.ErrThrottled, own},
	} {
		kek := newKEK("kek")
		env := seal(t, newSealer(t, kek, envelope.SealerOptions{}), nil, nil)
		kek.setFail(test.fails)
		_, openErr := envelope.NewOpener(kek).Open(t.Context(), env, nil)
		_, sealErr := newSealer(t, kek, envelope.SealerOptions{}).Seal(t.Context(), nil, nil)
		for _, err := range []error{openErr, sealErr} {
			e, ok := errors.AsType[*envelope.Error](err)
			if !ok || !errors.Is(e.Class, test.class) || !errors.Is(err, test.cause) {
				t.Errorf("%v becomes %v", test.fails, err)
			}
		}
	}
}
