package e2e_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keyfold/keyfold/internal/e2e/harness"
)

// testRotation: a new version of the key becomes the one that writes, without a
// restart; what the old one wrote stays readable until it is written again; then
// the old one is not needed any more.
func testRotation(t *testing.T, c *harness.Cluster) {
	before := c.CreateObjects(t, 10)
	old := c.Keyfold.Version()
	load := c.StartLoad(t, c.CreateObjects(t, 5))
	rotate(t, c)
	report := load.Stop()
	report.MustBeClean(t)
	t.Logf("meanwhile: %s", report)
	after := c.CreateObjects(t, 10)
	after.StoredUnder(t, c.Keyfold.KeyID(t, c.Keyfold.Version()))
	before.StoredUnder(t, c.Keyfold.KeyID(t, old))
	before.ReadBack(t)

	if c.Keyfold.API == "v1" {
		// v1 has no key id, so the API server takes nothing for stale and leaves a
		// no-op write out. Another provider name on the same socket is stale to it.
		before.Rewrite(t)
		before.StoredUnder(t, c.Keyfold.KeyID(t, old))
		next := c.Provider
		next.Name += "-next"
		c.API.Reload(t, next, c.Provider)
		c.Provider = next
	}
	c.Migrate(t)
	current := c.Keyfold.KeyID(t, c.Keyfold.Version())
	before.StoredUnder(t, current)
	after.StoredUnder(t, current)

	c.Keyfold.SetEnabled(t, old, false)
	defer c.Keyfold.SetEnabled(t, old, true)
	c.Kill()
	c.Start(t)
	before.ReadBack(t)
	after.ReadBack(t)
	after.Add(t, 5)
	c.Healthy(t, 30*time.Second)
	t.Logf("no-op writes of everything moved it to the new version; with the old one disabled and all killed and started, it is read, written and healthy")
}

// testTwoRotations: nothing is written again between two rotations, so that
// three versions are in use, of which the configuration names two.
func testTwoRotations(t *testing.T, c *harness.Cluster) {
	var all []*harness.Objects
	for range 3 {
		if len(all) > 0 {
			rotate(t, c)
		}
		o := c.CreateObjects(t, 10)
		o.StoredUnder(t, c.Keyfold.KeyID(t, c.Keyfold.Version()))
		all = append(all, o)
	}
	for _, o := range all {
		o.ReadBack(t)
	}
	c.Kill()
	c.Start(t)
	for _, o := range all {
		o.ReadBack(t)
		o.Add(t, 2)
	}
	t.Logf("objects of three versions are read, also after all were killed and started")
}

// rotate makes a new version current and waits until the API server writes
// under it.
func rotate(t *testing.T, c *harness.Cluster) {
	t.Helper()
	c.Healthy(t, 30*time.Second)
	// The API server counts no polls of a service in its own process, and KMS v1
	// has none.
	counted := c.Keyfold.API == "v2" && !c.Keyfold.InProcess
	var polls float64
	if counted {
		polls = statusPolls(t, c)
	}
	version := c.Keyfold.Rotate(t)
	keyID := c.Keyfold.KeyID(t, version)
	if c.Keyfold.API == "v1" {
		took := harness.Eventually(t, time.Minute, "v1 writes under the new version", func(context.Context) error {
			return c.WritesUnder(t, keyID)
		})
		t.Logf("rotated: v1 writes under the new version after %s", took.Round(time.Millisecond))
		return
	}
	took := harness.Eventually(t, 90*time.Second, "the API server sees the new key id", func(ctx context.Context) error {
		if err := c.API.Health(ctx); err != nil { // makes the API server poll, at most every 20 s
			return err
		}
		_, found, err := c.API.Metric(ctx, "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds", keyIDHash(keyID))
		if err == nil && !found {
			err = errors.New("the metric does not show it")
		}
		return err
	})
	if err := c.WritesUnder(t, keyID); err != nil {
		t.Fatal(err)
	}
	if !counted {
		t.Logf("rotated: the API server writes under the new version after %s", took.Round(time.Millisecond))
		return
	}
	polls = statusPolls(t, c) - polls
	if polls < 1 || polls > 2 {
		t.Errorf("the new key id took %v status polls, not one or two", polls)
	}
	t.Logf("rotated: the API server writes under the new version after %v status polls, %s", polls, took.Round(time.Millisecond))
}

// keyIDHash is how the API server shows a key id in its metrics and errors.
func keyIDHash(keyID string) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(keyID)))
}

// statusPolls is how often the API server has asked the plugin for its status.
// One that is ready has asked, so that a count that is missing is no zero.
func statusPolls(t *testing.T, c *harness.Cluster) float64 {
	t.Helper()
	const metric = "apiserver_envelope_encryption_kms_operations_latency_seconds_count"
	n, found, err := c.API.Metric(t.Context(), metric, "/Status\"")
	if err != nil {
		t.Fatal(err)
	}
	if !found {
		t.Fatalf("the API server has no metric %s of the calls of Status", metric)
	}
	return n
}
