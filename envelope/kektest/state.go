package kektest

//lint:file-ignore ST1005 Messages begin with the name of the method that they are about.

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyfold/keyfold/envelope"
)

// stateChecks are about the states of a key and of its vault.
func stateChecks() []check {
	var list []check
	for _, st := range []struct {
		name, hook string
		get        func(Subject) Hook
		class      error
		unwraps    bool // dates stop new wraps and nothing else
	}{
		{name: "disabled", hook: "Disable", get: func(s Subject) Hook { return s.Disable }, class: envelope.ErrDisabled},
		{name: "expired", hook: "Expire", get: func(s Subject) Hook { return s.Expire }, class: envelope.ErrExpired, unwraps: true},
		{name: "not-yet-valid", hook: "NotYetValid", get: func(s Subject) Hook { return s.NotYetValid }, class: envelope.ErrNotYetValid, unwraps: true},
		{name: "deleted", hook: "Delete", get: func(s Subject) Hook { return s.Delete }, class: envelope.ErrDeleted},
		{name: "forbidden", hook: "Forbid", get: func(s Subject) Hook { return s.Forbid }, class: envelope.ErrForbidden},
		{name: "throttled", hook: "Throttle", get: func(s Subject) Hook { return s.Throttle }, class: envelope.ErrThrottled},
		{name: "outage", hook: "Outage", get: func(s Subject) Hook { return s.Outage }, class: envelope.ErrUnreachable},
	} {
		list = append(list, check{name: st.name, needs: []need{hook(st.hook, st.get)}, run: func(ctx context.Context, s Subject) error {
			return checkState(ctx, s, st.get(s), st.class, st.unwraps)
		}})
	}
	return list
}

func checkState(ctx context.Context, s Subject, h Hook, class error, unwraps bool) error {
	dek, w, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	_, foreign, err := wrap(ctx, s.Foreign)
	if err != nil {
		return fmt.Errorf("Foreign: %w", err)
	}
	err = during(ctx, h, func() error {
		_, err := s.KEK.Wrap(ctx, newDEK(envelope.DEKSize))
		if err := expect("Wrap", err, class); err != nil {
			return err
		}
		// Whatever the state, another's key is none of this KEK's business.
		if err := refuses(ctx, "a foreign key", s.KEK, foreign, envelope.ErrUnknownKey); err != nil {
			return err
		}
		if unwraps {
			return opens(ctx, s.KEK, w, dek)
		}
		return refuses(ctx, "an earlier wrap", s.KEK, w, class)
	})
	if err != nil {
		return err
	}
	if err := errors.Join(opens(ctx, s.KEK, w, dek), works(ctx, s.KEK)); err != nil {
		return fmt.Errorf("after the state has ended: %w", err)
	}
	return nil
}

// during runs f in the state that h provokes; a nil hook provokes none. The state
// ends however f does, or the checks after it would all fail.
func during(ctx context.Context, h Hook, f func() error) error {
	if h == nil {
		return f()
	}
	undo, err := h(ctx)
	if err != nil {
		return fmt.Errorf("the hook failed: %w", err)
	}
	err = recovered(f)
	if undoErr := undo(); undoErr != nil {
		return errors.Join(err, fmt.Errorf("undo of the hook failed: %w", undoErr))
	}
	return err
}
