package kmsv2

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keyfold/keyfold/envelope"
)

// outcomes maps each class of error to its gRPC code and to its label in metrics
// and logs. The order matters: a narrower class stands before the one it is part of.
var outcomes = []struct {
	class error
	code  codes.Code
	label string
}{
	{envelope.ErrThrottled, codes.ResourceExhausted, "throttled"},
	{envelope.ErrUnauthenticated, codes.Unauthenticated, "unauthenticated"},
	{envelope.ErrForbidden, codes.PermissionDenied, "forbidden"},
	{envelope.ErrExpired, codes.FailedPrecondition, "expired"},
	{envelope.ErrNotYetValid, codes.FailedPrecondition, "not_yet_valid"},
	{envelope.ErrDisabled, codes.FailedPrecondition, "disabled"},
	{envelope.ErrDeleted, codes.NotFound, "deleted"},
	{envelope.ErrRevoked, codes.FailedPrecondition, "revoked"},
	{envelope.ErrCorrupt, codes.InvalidArgument, "corrupt"},
	{envelope.ErrUnknownKey, codes.NotFound, "unknown_key"},
	{envelope.ErrInvalid, codes.InvalidArgument, "invalid"},
	{envelope.ErrUnreachable, codes.Unavailable, "unreachable"},
}

// classify finds the code and the label of err. The outermost [envelope.Error]
// decides: it is the one that knows what the failure of its cause means.
func classify(err error) (codes.Code, string) {
	if err == nil {
		return codes.OK, "ok"
	}
	class := err
	var typed *envelope.Error
	if errors.As(err, &typed) {
		class = typed.Class
	}
	// A call that ran out of time says so, whichever layer noticed: to the caller,
	// "unreachable" and "too slow for your deadline" ask for different things.
	if typed == nil || errors.Is(class, envelope.ErrUnreachable) {
		switch {
		case errors.Is(err, context.Canceled):
			return codes.Canceled, "canceled"
		case errors.Is(err, context.DeadlineExceeded):
			return codes.DeadlineExceeded, "deadline"
		}
	}
	for _, o := range outcomes {
		if errors.Is(class, o.class) {
			return o.code, o.label
		}
	}
	return codes.Internal, "internal"
}

// Code returns the gRPC code for an error of any package of this module:
//
//	unreachable                   Unavailable, DeadlineExceeded or Canceled
//	throttled                     ResourceExhausted
//	unauthenticated               Unauthenticated
//	forbidden                     PermissionDenied
//	expired, not yet valid        FailedPrecondition
//	revoked, disabled             FailedPrecondition
//	deleted                       NotFound
//	corrupt, invalid              InvalidArgument
//	unknown key                   NotFound
//	anything else                 Internal
//
// nil is OK.
func Code(err error) codes.Code {
	code, _ := classify(err)
	return code
}

// Class returns the class of err as a label for metrics, one of a small fixed set
// such as "unreachable" or "corrupt"; "ok" for nil.
func Class(err error) string {
	_, label := classify(err)
	return label
}

// statusError is an error that is both itself, for callers in this process, and a
// gRPC status, for those behind the socket.
type statusError struct {
	err  error
	code codes.Code
}

// toStatus gives err its gRPC status. The message is the error's own, with the
// remedy; errors of this module hold no key bytes, tokens or plaintext.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	return &statusError{err: err, code: Code(err)}
}

func (e *statusError) Error() string              { return e.err.Error() }
func (e *statusError) Unwrap() error              { return e.err }
func (e *statusError) GRPCStatus() *status.Status { return status.New(e.code, e.err.Error()) }

func invalid(op, remedy, format string, args ...any) error {
	return &envelope.Error{Class: envelope.ErrInvalid, Op: op, Err: fmt.Errorf(format, args...), Remedy: remedy}
}

func corrupt(op, format string, args ...any) error {
	return &envelope.Error{Class: envelope.ErrCorrupt, Op: op, Err: fmt.Errorf(format, args...)}
}
