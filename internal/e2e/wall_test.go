package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyfold/keyfold/internal/e2e/harness"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// The wall of KMS v1: an API server that starts asks its plugin for the data key
// of every object, and Key Vault grants 2,000 operations on an RSA-2048 HSM key in
// 10 s, each of which takes some 10 ms.
const (
	wallSecrets = 5000
	wallBatches = 5 // each under a key version and a DEK of its own
)

var wallFaults = hsmsim.Faults{
	Latency: 10 * time.Millisecond,
	Limit:   hsmsim.Limit{Operations: 2000, Per: 10 * time.Second},
}

// controlBound is how long the control may try in vain. By the limit alone it
// needs 20 s for its 5,000 operations, by the latency 50 s.
const controlBound = 30 * time.Second

// TestV1Wall runs into the wall with a plugin that asks the KEK for each object,
// and then takes the same Secrets through it with Keyfold.
func TestV1Wall(t *testing.T) {
	t.Parallel()
	var control *harness.PassThrough
	c := harness.NewCluster(t, harness.SocketV1, harness.Options{
		KeySpec: hsmsim.RSA2048,
		Providers: func(k *harness.Keyfold) []harness.Provider {
			control = harness.StartPassThrough(t, k)
			return []harness.Provider{control.Provider}
		},
	})
	began := time.Now()
	var namespaces []string
	for range wallBatches {
		ns := c.Namespace(t)
		c.CreateSecrets(t, ns, wallSecrets/wallBatches)
		namespaces = append(namespaces, ns)
	}
	t.Logf("%d Secrets created through the control in %s", wallSecrets, time.Since(began).Round(time.Second))

	hitTheWall(t, c, control)
	c.Keyfold.SetFaults(t, hsmsim.Faults{})
	c.Healthy(t, time.Minute)

	began = time.Now()
	c.API.Reload(t, c.Provider, control.Provider)
	for _, ns := range namespaces {
		c.MigrateNamespace(t, ns)
		rotate(t, c)
	}
	c.Migrate(t)
	c.API.Reload(t, c.Provider)
	control.Process.Kill()
	t.Logf("the same Secrets written again through Keyfold, with %d rotations, in %s", len(namespaces), time.Since(began).Round(time.Second))

	breakTheWall(t, c)
}

// hitTheWall starts the control and the API server cold and shows that the Secrets
// cannot be listed.
func hitTheWall(t *testing.T, c *harness.Cluster, control *harness.PassThrough) {
	t.Helper()
	c.API.Kill()
	control.Process.Kill()
	c.Keyfold.SetFaults(t, wallFaults)
	began := time.Now()
	control.Process.Start(t)
	c.API.Start(t)

	var last error
	harness.Always(t, controlBound, "the Secrets cannot be listed", func(ctx context.Context) error {
		n, err := c.ListSecrets(ctx)
		if err == nil {
			return fmt.Errorf("%d Secrets listed", n)
		}
		last = err
		return nil
	})
	operations := c.Keyfold.Operations(t, control.Process.PID(), began)
	t.Logf("control, %s after a cold start: no list of Secrets (%v); HSM operations: %v", controlBound, last, operations)
	if operations["unwrapKey ok"] < 1000 {
		t.Errorf("control: the HSM was asked for %d unwraps only, so it was not what stood in the way", operations["unwrapKey ok"])
	}
}

// breakTheWall starts Keyfold and the API server cold and lists every Secret.
func breakTheWall(t *testing.T, c *harness.Cluster) {
	t.Helper()
	deks := c.StoredDEKs(t)
	if len(deks) < wallBatches {
		t.Fatalf("everything is stored under %d DEKs, not %d at least", len(deks), wallBatches)
	}
	c.Kill()
	c.Keyfold.SetFaults(t, wallFaults)
	mark := c.KeyfoldProcess().LogMark()
	began := time.Now()
	ready := c.Start(t)
	listed := harness.Eventually(t, controlBound, "every Secret is listed", func(ctx context.Context) error {
		n, err := c.ListSecrets(ctx)
		if err == nil && n != wallSecrets {
			err = fmt.Errorf("%d Secrets listed of %d", n, wallSecrets)
		}
		return err
	})
	log := c.Keyfold.OperationLog(t, c.Keyfold.Process.PID(), began)
	operations := harness.CountOperations(log)
	t.Logf("Keyfold: ready %s after a cold start, %d Secrets listed %s later; %d DEKs; HSM operations: %v",
		ready.Round(time.Millisecond), wallSecrets, listed.Round(time.Millisecond), len(deks), operations)
	if unwraps := operations["unwrapKey ok"] - probes(log); unwraps < 1 || unwraps > len(deks) {
		t.Errorf("Keyfold: %d unwraps beside its probes for %d DEKs", unwraps, len(deks))
	}
	for operation, n := range operations {
		if !strings.HasSuffix(operation, " ok") {
			t.Errorf("Keyfold: the HSM answered %q %d times", operation, n)
		}
	}
	noNewDEK(t, c, c.KeyfoldProcess().LogSince(mark), deks)
}

// probes counts the probes of the ring's health: a wrap, and an unwrap of the same
// version after it. A wrap without one is of a probe that still runs, and stands
// for no unwrap. Every wrap is a probe's as long as there is noNewDEK.
func probes(log []hsmsim.LogEntry) (n int) {
	wrapped := make(map[string]int) // by version, not yet unwrapped
	for _, e := range log {
		switch {
		case e.Result != "ok":
		case e.Operation == hsmsim.OpWrapKey:
			wrapped[e.Version]++
		case e.Operation == hsmsim.OpUnwrapKey && wrapped[e.Version] > 0:
			wrapped[e.Version]--
			n++
		}
	}
	return n
}

// noNewDEK fails the test unless Keyfold has gone on under its saved DEK and has
// wrapped no other: by what it has logged since its start, and by what it writes.
func noNewDEK(t *testing.T, c *harness.Cluster, log string, deks map[[16]byte]int) {
	t.Helper()
	if !strings.Contains(log, "going on under the data key of an earlier run") {
		t.Errorf("Keyfold has not logged that it goes on under the saved DEK")
	}
	if strings.Contains(log, "a data key is ready") {
		t.Errorf("Keyfold has wrapped a new DEK, although it had saved one")
	}
	c.CreateSecrets(t, c.Namespace(t), 10)
	for dek, n := range c.StoredDEKs(t) {
		if deks[dek] == 0 {
			t.Errorf("after a cold start %d objects are stored under a new DEK, %x", n, dek)
		}
	}
}
