package kektest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// contextChecks are about contexts that end.
func contextChecks() []check {
	return []check{
		{name: "canceled-context", run: func(ctx context.Context, s Subject) error {
			return heedsEnd(ctx, s, nil, func() (context.Context, context.CancelFunc) {
				over, cancel := context.WithCancel(ctx)
				cancel()
				return over, cancel
			})
		}},
		{name: "expired-context", run: func(ctx context.Context, s Subject) error {
			return heedsEnd(ctx, s, nil, func() (context.Context, context.CancelFunc) {
				return context.WithDeadline(ctx, time.Now().Add(-time.Second))
			})
		}},
		{name: "stalled", needs: []need{hook("Stall", func(s Subject) Hook { return s.Stall })}, run: func(ctx context.Context, s Subject) error {
			return heedsEnd(ctx, s, s.Stall, func() (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, 50*time.Millisecond)
			})
		}},
	}
}

// heedsEnd checks, in the state of a hook, that both calls return soon after their
// context has ended, with its error or as unreachable: it says nothing about the
// key or the data.
func heedsEnd(ctx context.Context, s Subject, h Hook, ending func() (context.Context, context.CancelFunc)) error {
	_, w, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	return during(ctx, h, func() error {
		return errors.Join(
			returns("Wrap", ending, func(ctx context.Context) error {
				_, err := s.KEK.Wrap(ctx, newDEK(envelope.DEKSize))
				return err
			}),
			returns("Unwrap", ending, func(ctx context.Context) error {
				_, err := s.KEK.Unwrap(ctx, clone(w))
				return err
			}))
	})
}

func returns(what string, ending func() (context.Context, context.CancelFunc), call func(context.Context) error) error {
	ctx, cancel := ending()
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- recovered(func() error { return call(ctx) }) }()
	<-ctx.Done()
	overdue := time.NewTimer(patience)
	defer overdue.Stop()
	select {
	case err := <-done:
		return contextClass(what, ctx, err)
	case <-overdue.C:
		return fmt.Errorf("%s did not return within %v of the end of its context", what, patience)
	}
}

func contextClass(what string, ctx context.Context, err error) error {
	if err == nil {
		return fmt.Errorf("%s succeeded although its context had ended", what)
	}
	if errors.Is(err, ctx.Err()) {
		for _, c := range classes {
			if c.is != envelope.ErrUnreachable && errors.Is(err, c.is) {
				return fmt.Errorf("%s: %q, an ended context, is of class %v", what, err, c.is)
			}
		}
		return nil
	}
	return expect(what+" with an ended context", err, envelope.ErrUnreachable)
}
