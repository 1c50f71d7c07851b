package e2e_test

import (
	"testing"
	"time"

	"github.com/keyfold/keyfold/internal/e2e/harness"
)

// TestHotReload takes one cluster through every change of providers by its
// configuration alone: from plaintext to KMS v1, to v2, and back to plaintext.
func TestHotReload(t *testing.T) {
	t.Parallel()
	for _, mode := range []harness.Mode{harness.SocketV2, harness.InProcessV2} {
		t.Run(mode.Name, func(t *testing.T) {
			c := harness.NewCluster(t, mode, harness.Options{
				Providers: func(*harness.Keyfold) []harness.Provider { return []harness.Provider{harness.Identity} },
			})
			v1, v2 := c.Keyfold.ProviderFor("v1"), c.Keyfold.ProviderFor("v2")
			o := c.CreateObjects(t, 20)
			o.StoredBy(t, harness.Identity)

			use := func(what string, providers ...harness.Provider) {
				t.Helper()
				took := c.API.Reload(t, providers...)
				c.Healthy(t, 30*time.Second)
				o.ReadBack(t)
				c.Migrate(t)
				o.StoredBy(t, providers[0])
				o.ReadBack(t)
				t.Logf("%s: in use after %s, all written again and read", what, took.Round(time.Millisecond))
			}
			if mode.InProcess {
				use("plaintext to v2", v2, harness.Identity)
			} else {
				use("plaintext to v1", v1, harness.Identity)
				use("v1 to v2", v2, v1, harness.Identity)
			}
			use("v2 alone", v2)
			fresh := c.CreateObjects(t, 5)
			if found := c.Etcd.Find(t, fresh.Plaintext); len(found) > 0 {
				t.Errorf("etcd holds plaintext that was written under KMS: %v", found)
			}
			use("v2 to plaintext", harness.Identity, v2)
			use("plaintext alone", harness.Identity)

			// Nothing needs Keyfold any more.
			c.Keyfold.Kill()
			c.API.Kill()
			c.API.StartReady(t)
			o.ReadBack(t)
		})
	}
}
