package e2e_test

import (
	"context"
	"fmt"
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

	bystander := c.CreateObjects(t, 5)
	load := c.StartLoad(t, bystander)
	harness.Eventually(t, 30*time.Second, "a load runs", func(context.Context) error {
		if n := len(load.Report().Written); n < 20 {
			return fmt.Errorf("%d Secrets written", n)
		}
		return nil
	})
	c.Kill()
	report := load.Stop()
	took = c.Start(t)
	o.Add(t, 5)
	stored("after all were killed")
	bystander.Acknowledged(t, report.Written)
	t.Logf("all killed with SIGKILL under load and started: ready after %s; all %d Secrets that had been acknowledged are there", took.Round(time.Millisecond), len(report.Written))

	c.Kill()
	c.Keyfold.LoseState(t)
	took = c.Start(t)
	o.Add(t, 5)
	stored("after the state folder was lost")
	t.Logf("all killed and the state folder lost: ready after %s", took.Round(time.Millisecond))
}
