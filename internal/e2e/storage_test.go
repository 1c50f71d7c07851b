package e2e_test

import (
	"testing"
	"time"

	"github.com/keyfold/keyfold/internal/e2e/harness"
)

// testStorage: what lies in etcd is written by Keyfold and shows no plaintext,
// and every way of ending and starting the processes leaves it readable.
func testStorage(t *testing.T, c *harness.Cluster) {
	o := c.CreateObjects(t, 20)
	stored := func(when string) {
		t.Helper()
		o.StoredBy(t, c.Provider)
		o.StoredUnder(t, c.Keyfold.KeyID(t, c.Keyfold.Version()))
		if found := c.Etcd.Find(t, o.Plaintext); len(found) > 0 {
			t.Fatalf("%s: etcd holds plaintext: %v", when, found)
		}
		o.ReadBack(t)
	}
	stored("at first")
	t.Logf("%d objects under %q, no plaintext in any value or file of etcd, read back", 2*o.Count, c.Provider.Prefix())

	c.API.Terminate(t, time.Minute)
	took := c.API.StartReady(t)
	o.Add(t, 5)
	stored("after the API server was restarted")
	t.Logf("API server restarted: ready after %s", took.Round(time.Millisecond))

	if plugin := c.Keyfold.Process; plugin != nil {
		plugin.Terminate(t, time.Minute)
		took := c.Keyfold.Start(t)
		o.Add(t, 5)
		stored("after the plugin was restarted")
		t.Logf("plugin restarted: serves after %s", took.Round(time.Millisecond))
	}

	c.Kill()
	took = c.Start(t)
	o.Add(t, 5)
	stored("after all were killed")
	t.Logf("all killed with SIGKILL and started: ready after %s", took.Round(time.Millisecond))
}
