package e2e_test

import (
	"context"
	"testing"

	"github.com/keyfold/keyfold/internal/e2e/harness"
	"github.com/keyfold/keyfold/kmsv2/kmstest"
)

// TestConformance judges the plugin as it is built and deployed by every rule of
// the KMS v2 contract.
func TestConformance(t *testing.T) {
	t.Parallel()
	k := harness.NewPlugin(t)
	k.Start(t)
	kmstest.Run(t, "unix://"+k.Socket, kmstest.Options{
		Rotate: func(context.Context) error {
			k.Rotate(t)
			return nil
		},
		Restart: func(context.Context) error {
			k.Kill()
			k.Start(t)
			return nil
		},
		Revoke: func(context.Context) error {
			k.SetEnabled(t, k.Version(), false)
			return nil
		},
		Restore: func(context.Context) error {
			k.SetEnabled(t, k.Version(), true)
			return nil
		},
	})
}
