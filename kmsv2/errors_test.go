package kmsv2_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/kmsv2"
)

func TestCodes(t *testing.T) {
	typed := func(class, cause error) error { return &envelope.Error{Class: class, Op: "test", Err: cause} }
	for _, c := range []struct {
		err   error
		code  codes.Code
		class string
	}{
		{nil, codes.OK, "ok"},
		{envelope.ErrUnreachable, codes.Unavailable, "unreachable"},
		{typed(envelope.ErrUnreachable, context.DeadlineExceeded), codes.DeadlineExceeded, "deadline"},
		{typed(envelope.ErrUnreachable, context.Canceled), codes.Canceled, "canceled"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "deadline"},
		{fmt.Errorf("wait: %w", context.Canceled), codes.Canceled, "canceled"},
		{envelope.ErrThrottled, codes.ResourceExhausted, "throttled"},
		{envelope.ErrUnauthenticated, codes.Unauthenticated, "unauthenticated"},
		{envelope.ErrForbidden, codes.PermissionDenied, "forbidden"},
		{envelope.ErrExpired, codes.FailedPrecondition, "expired"},
		{envelope.ErrNotYetValid, codes.FailedPrecondition, "not_yet_valid"},
		{envelope.ErrDisabled, codes.FailedPrecondition, "disabled"},
		{envelope.ErrDeleted, codes.NotFound, "deleted"},
		{envelope.ErrRevoked, codes.FailedPrecondition, "revoked"},
		{typed(envelope.ErrRevoked, typed(envelope.ErrDeleted, nil)), codes.FailedPrecondition, "revoked"},
		{envelope.ErrCorrupt, codes.InvalidArgument, "corrupt"},
		{envelope.ErrUnknownKey, codes.NotFound, "unknown_key"},
		{envelope.ErrInvalid, codes.InvalidArgument, "invalid"},
		{fmt.Errorf("seal: %w", typed(envelope.ErrThrottled, nil)), codes.ResourceExhausted, "throttled"},
		{errors.New("something else"), codes.Internal, "internal"},
	} {
		if code, class := kmsv2.Code(c.err), kmsv2.Class(c.err); code != c.code || class != c.class {
			t.Errorf("%v: %v %q, want %v %q", c.err, code, class, c.code, c.class)
		}
	}
}

// An error is both what errors.Is looks for and what gRPC sends.
func TestErrorsCarryStatus(t *testing.T) {
	p := start(t, setup{ring: oneKey(t)})
	_, err := p.Encrypt(context.Background(), "", nil)
	wantClass(t, err, envelope.ErrInvalid)
	s, ok := status.FromError(err)
	if !ok || s.Code() != codes.InvalidArgument || s.Message() != err.Error() {
		t.Errorf("status %v", s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Healthz(ctx); status.Code(err) != codes.Canceled {
		t.Errorf("Healthz: %v", err)
	}
}
