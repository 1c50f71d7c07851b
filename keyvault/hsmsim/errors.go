package hsmsim

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyfold/keyfold/envelope"
)

// ErrExists is inside the error (of class [envelope.ErrInvalid]) of CreateKey for
// a name in use. A program that wants "created if missing" ignores it, which has
// no race with other processes as a look before would have.
var ErrExists = errors.New("a key of this name exists")

// fail builds the one error type. Every class has its own remedy unless the
// caller knows a better one.
func fail(class error, op, key string, cause error, remedy string) error {
	return &envelope.Error{Class: class, Op: "hsmsim: " + op, Key: key, Err: cause, Remedy: remedy}
}

func invalid(op, key, remedy, format string, args ...any) error {
	return fail(envelope.ErrInvalid, op, key, fmt.Errorf(format, args...), remedy)
}

// interrupted reports a context that ended. The class is ErrUnreachable, since it
// says nothing about the key; errors.Is also finds the context's own error.
func interrupted(op, key string, ctx context.Context) error {
	return fail(envelope.ErrUnreachable, op, key, ctx.Err(), "try again, with a longer deadline if it ran out")
}

// unusable reports, in an operation on a key, a folder that cannot be read. The
// cause becomes text: were its ErrCorrupt still visible to errors.Is, a policy
// would take the caller's data for corrupt and drop it, where only the HSM is.
func unusable(op, key string, cause error) error {
	return fail(envelope.ErrUnreachable, op, key, errors.New(cause.Error()), "check the HSM's folder")
}

// resultOf names the outcome of an operation in the log, by class alone.
func resultOf(err error) string {
	if err == nil {
		return "ok"
	}
	for _, r := range []struct {
		is   error
		name string
	}{
		{context.Canceled, "canceled"},
		{context.DeadlineExceeded, "canceled"},
		{envelope.ErrDisabled, "disabled"},
		{envelope.ErrDeleted, "deleted"},
		{envelope.ErrExpired, "expired"},
		{envelope.ErrNotYetValid, "notYetValid"},
		{envelope.ErrForbidden, "forbidden"},
		{envelope.ErrThrottled, "throttled"},
		{envelope.ErrUnreachable, "unreachable"},
		{envelope.ErrCorrupt, "corrupt"},
		{envelope.ErrInvalid, "invalid"},
	} {
		if errors.Is(err, r.is) {
			return r.name
		}
	}
	return "error"
}
