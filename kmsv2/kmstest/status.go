package kmstest

import (
	"context"
	"fmt"
	"unicode/utf8"
)

// looks is how often a rule looks at something that must not change. Each look is
// cheap; a plugin that alternates, counts or draws lots does not survive twenty.
const looks = 20

func reachable(ctx context.Context, s *subject) error {
	_, err := s.status(ctx)
	if err != nil {
		s.unreachable = skipError("the plugin is unreachable")
	}
	return err
}

func statusVersion(ctx context.Context, s *subject) error {
	first := ""
	return s.eachStatus(ctx, func(version, _, _ string) error {
		if version != "v2" && version != "v2beta1" {
			return fmt.Errorf(`version %q is neither "v2" nor "v2beta1"`, version)
		}
		if first == "" {
			first = version
		}
		if version != first {
			return fmt.Errorf("version changed from %q to %q", first, version)
		}
		return nil
	})
}

func statusHealthz(ctx context.Context, s *subject) error {
	return s.eachStatus(ctx, func(_, healthz, _ string) error {
		if healthz != "ok" {
			return fmt.Errorf(`healthz %q is not "ok"`, healthz)
		}
		return nil
	})
}

// statusPolled makes as many calls as five API servers do in about six minutes when
// all is well, and in one when it is not (row 13).
func statusPolled(ctx context.Context, s *subject) error {
	const calls = 100
	for n := range calls {
		if _, err := s.status(ctx); err != nil {
			return fmt.Errorf("call %d of %d in a row: %w", n+1, calls, err)
		}
	}
	return nil
}

func keyIDSize(ctx context.Context, s *subject) error {
	r, err := s.status(ctx)
	if err != nil {
		return err
	}
	e, err := s.encrypt(ctx, seed())
	if err != nil {
		return err
	}
	for op, id := range map[string]string{"Status": r.KeyID, "Encrypt": e.KeyID} {
		if len(id) == 0 || len(id) > 1024 {
			return fmt.Errorf("%s: key_id of %d bytes, not 1 to 1024", op, len(id))
		}
		if !utf8.ValidString(id) {
			return fmt.Errorf("%s: key_id %q is not UTF-8, which a protobuf string must be", op, id)
		}
	}
	return nil
}

func keyIDStable(ctx context.Context, s *subject) error {
	first, seen := "", false
	return s.eachStatus(ctx, func(_, _, keyID string) error {
		if !seen {
			first, seen = keyID, true
		}
		if keyID != first {
			return fmt.Errorf("key_id changed from %q to %q, and nobody had rotated", first, keyID)
		}
		return nil
	})
}

// eachStatus shows look a number of answers of Status, with other calls in between.
func (s *subject) eachStatus(ctx context.Context, look func(version, healthz, keyID string) error) error {
	for range looks {
		r, err := s.status(ctx)
		if err != nil {
			return err
		}
		if err := look(r.Version, r.Healthz, r.KeyID); err != nil {
			return err
		}
		e, err := s.encrypt(ctx, seed())
		if err != nil {
			return err
		}
		if _, err := s.decrypt(ctx, e.request()); err != nil {
			return err
		}
	}
	return nil
}
