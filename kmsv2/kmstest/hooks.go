package kmstest

import (
	"context"
	"fmt"
	"time"
)

// restarted keeps something from before a restart, makes one, and waits for the plugin
// to answer again.
func (s *subject) restarted(ctx context.Context) (keyID string, data sealed, err error) {
	if s.o.Restart == nil {
		return "", sealed{}, skipError("there is no Options.Restart")
	}
	before, err := s.status(ctx)
	if err != nil {
		return "", sealed{}, err
	}
	data, err = s.encrypt(ctx, seed())
	if err != nil {
		return "", sealed{}, err
	}
	if err := s.o.Restart(ctx); err != nil {
		return "", sealed{}, fmt.Errorf("Options.Restart: %w", err)
	}
	err = s.settles(ctx, "the plugin was restarted", func() error {
		_, err := s.status(ctx)
		return err
	})
	return before.KeyID, data, err
}

func restartKeyID(ctx context.Context, s *subject) error {
	keyID, _, err := s.restarted(ctx)
	if err != nil {
		return err
	}
	after, err := s.status(ctx)
	if err == nil && after.KeyID != keyID {
		err = fmt.Errorf("key_id was %q before the restart and is %q: all data is stale for API servers", keyID, after.KeyID)
	}
	return err
}

func restartOldData(ctx context.Context, s *subject) error {
	_, data, err := s.restarted(ctx)
	if err != nil {
		return err
	}
	return s.opens(ctx, data)
}

func revokedStatusFails(ctx context.Context, s *subject) error {
	if s.o.Revoke == nil {
		return skipError("there is no Options.Revoke")
	}
	if err := s.o.Revoke(ctx); err != nil {
		return fmt.Errorf("Options.Revoke: %w", err)
	}
	return s.settles(ctx, "the key was revoked", func() error {
		if r, err := s.status(ctx); err == nil {
			return fmt.Errorf("Status still answers, with healthz %q", r.Healthz)
		}
		return nil
	})
}

func restoredWorks(ctx context.Context, s *subject) error {
	if s.o.Revoke == nil || s.o.Restore == nil {
		return skipError("there is no Options.Revoke with an Options.Restore")
	}
	// The plugin is without its key: the rule before this one took it away.
	if err := s.o.Restore(ctx); err != nil {
		return fmt.Errorf("Options.Restore: %w", err)
	}
	return s.settles(ctx, "the key was restored", func() error {
		r, err := s.status(ctx)
		if err != nil {
			return err
		}
		if r.Healthz != "ok" {
			return fmt.Errorf("healthz is %q", r.Healthz)
		}
		return s.alive(ctx, "a Status that answers")
	})
}

// settles looks again and again until look is content, for as long as the plugin may
// take.
func (s *subject) settles(ctx context.Context, since string, look func() error) error {
	deadline := time.Now().Add(s.o.Settle)
	for {
		err := look()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s %s ago: %w", since, s.o.Settle, err)
		}
		if err := pause(ctx, quick); err != nil {
			return err
		}
	}
}
