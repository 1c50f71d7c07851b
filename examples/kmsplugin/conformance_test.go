package main_test

import (
	"context"
	"syscall"
	"testing"

	"github.com/keyfold/keyfold/kmsv2/kmstest"
)

// TestConformance runs the KMS v2 contract against the deployed thing: rotation as
// an operator does it, kill -9 for a restart, revocation in the vault.
func TestConformance(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	config := p.write("config.yaml", p.configFor("keyName: kek", "probeInterval: 1s"))
	plugin := start(t, "--config", config)
	p.client().keyID()
	h := p.openHSM()
	enable := func(enabled bool) func(context.Context) error {
		return func(ctx context.Context) error {
			latest, err := h.Key(ctx, "kek", "")
			if err != nil {
				return err
			}
			return h.SetEnabled(ctx, "kek", latest.Version, enabled)
		}
	}
	kmstest.Run(t, p.endpoint(), kmstest.Options{
		Rotate: func(ctx context.Context) error {
			if _, err := h.Rotate(ctx, "kek"); err != nil {
				return err
			}
			return plugin.cmd.Process.Signal(syscall.SIGHUP)
		},
		Restart: func(context.Context) error {
			plugin.kill()
			plugin = start(t, "--config", config)
			return nil
		},
		Revoke:  enable(false),
		Restore: enable(true),
	})
}
