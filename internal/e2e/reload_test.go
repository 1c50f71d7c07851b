package e2e_test

import (
	"testing"
	"time"

	"github.com/keyfold/keyfold/internal/e2e/harness"
)

// TestHotReload takes a running API server through every change of providers by
// its configuration alone.
func TestHotReload(t *testing.T) {
	t.Parallel()
	t.Run("with a plugin", func(t *testing.T) {
		r := newReloading(t, harness.SocketV2)
		k := r.c.Keyfold
		v1, v2, inProcess := k.PluginProvider("v1"), k.PluginProvider("v2"), k.InProcessProvider()
		r.use("plaintext to v1", v1, harness.Identity)
		r.use("v1 to v2", v2, v1, harness.Identity)
		r.use("v2 alone", v2)
		r.use("v2 by the plugin to v2 in process", inProcess, v2)
		r.use("in process alone", inProcess)
		k.Kill()
		r.use("in process without a plugin to plaintext", harness.Identity, inProcess)
		r.end()
	})
	t.Run("without a plugin", func(t *testing.T) {
		r := newReloading(t, harness.InProcessV2)
		inProcess := r.c.Keyfold.InProcessProvider()
		r.use("plaintext to v2 in process", inProcess, harness.Identity)
		r.use("in process alone", inProcess)
		r.use("in process to plaintext", harness.Identity, inProcess)
		r.end()
	})
}

// reloading is a cluster that starts with plaintext, and objects in it that every
// change of providers has to carry over.
type reloading struct {
	t *testing.T
	c *harness.Cluster
	o *harness.Objects
}

func newReloading(t *testing.T, mode harness.Mode) *reloading {
	c := harness.NewCluster(t, mode, harness.Options{
		AlsoInProcess: true,
		Providers:     func(*harness.Keyfold) []harness.Provider { return []harness.Provider{harness.Identity} },
	})
	o := c.CreateObjects(t, 20)
	o.StoredBy(t, harness.Identity)
	if len(c.Etcd.Find(t, o.Plaintext)) == 0 {
		t.Fatal("plaintext is not found where nothing is encrypted, so that not finding it means nothing")
	}
	return &reloading{t, c, o}
}

// use writes with the first provider and reads with all of them, and moves
// everything to the first.
func (r *reloading) use(what string, providers ...harness.Provider) {
	r.t.Helper()
	took := r.c.API.Reload(r.t, providers...)
	r.c.Healthy(r.t, 30*time.Second)
	r.o.ReadBack(r.t)
	r.c.Migrate(r.t)
	r.o.StoredBy(r.t, providers[0])
	r.o.ReadBack(r.t)
	if providers[0] != harness.Identity {
		fresh := r.c.CreateObjects(r.t, 2)
		fresh.StoredBy(r.t, providers[0])
		if found := r.c.Etcd.Find(r.t, fresh.Plaintext); len(found) > 0 {
			r.t.Errorf("%s: etcd holds plaintext: %v", what, found)
		}
	}
	r.t.Logf("%s: in use after %s; everything read, written again, checked in etcd and read", what, took.Round(time.Millisecond))
}

// end goes back to plaintext for good, after which nothing needs Keyfold.
func (r *reloading) end() {
	r.t.Helper()
	r.use("plaintext alone", harness.Identity)
	r.c.Kill()
	r.c.API.StartReady(r.t)
	r.o.ReadBack(r.t)
}
