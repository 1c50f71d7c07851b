package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// Options are what a cluster may have different from the others.
type Options struct {
	// KeySpec is the kind of the key; AES-256 if empty.
	KeySpec hsmsim.KeySpec
	// AlsoInProcess lets the API server serve Keyfold's in-process provider beside
	// the plugin's.
	AlsoInProcess bool
	// Providers returns the encryption configuration that the API server starts
	// with; if nil, Keyfold alone.
	Providers func(k *Keyfold) []Provider
}

// Cluster is a control plane of one etcd, one API server and Keyfold.
type Cluster struct {
	Etcd    *Etcd
	API     *APIServer
	Keyfold *Keyfold
	// Provider is what the API server is configured with first.
	Provider Provider
}

// reloadInterval is how often these API servers look at their encryption
// configuration; as released it is a minute, which would be most of a case.
const reloadInterval = time.Second

// NewCluster starts a cluster and waits until it is ready.
func NewCluster(t testing.TB, mode Mode, o Options) *Cluster {
	t.Helper()
	if o.KeySpec == "" {
		o.KeySpec = hsmsim.AES256
	}
	bins, dir, logDir := Build(t), shortDir(t), t.ArtifactDir()
	c := &Cluster{Keyfold: newKeyfold(t, bins, mode, o.KeySpec, dir, logDir)}
	c.Provider = c.Keyfold.Provider()
	providers := []Provider{c.Provider}
	if o.Providers != nil {
		providers = o.Providers(c.Keyfold)
	}
	env := []string{"KEYFOLD_RELOAD=" + reloadInterval.String()}
	if mode.InProcess || o.AlsoInProcess {
		env = append(env, "KEYFOLD_PROVIDER="+c.Keyfold.InProcessProvider().Name, "KEYFOLD_CONFIG="+c.Keyfold.configPath)
	}
	began := time.Now()
	c.Etcd = StartEtcd(t, bins, dir, logDir)
	c.API = newAPIServer(t, bins, dir, logDir, c.Etcd.URL, providers, env)
	c.Start(t)
	t.Logf("%s: etcd, API server and Keyfold ready after %s", mode.Name, round(time.Since(began)))
	return c
}

// NewPlugin prepares a plugin without an API server.
func NewPlugin(t testing.TB) *Keyfold {
	t.Helper()
	return newKeyfold(t, Build(t), SocketV2, hsmsim.AES256, shortDir(t), t.ArtifactDir())
}

// shortDir is a t.TempDir() with a short name: the path of a socket has at most
// 107 bytes.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kf-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Start starts Keyfold and the API server and waits until both are ready.
func (c *Cluster) Start(t testing.TB) time.Duration {
	t.Helper()
	began := time.Now()
	c.Keyfold.Start(t)
	c.API.StartReady(t)
	return time.Since(began)
}

// Kill ends Keyfold and the API server with SIGKILL; etcd goes on.
func (c *Cluster) Kill() {
	c.API.Kill()
	c.Keyfold.Kill()
}

// KeyfoldProcess returns the process that Keyfold runs in.
func (c *Cluster) KeyfoldProcess() *Process {
	if c.Keyfold.Process != nil {
		return c.Keyfold.Process
	}
	return c.API.Process
}

// Namespace makes a namespace of its own for a case.
func (c *Cluster) Namespace(t testing.TB) string {
	t.Helper()
	ns, err := c.API.Client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "case-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// Healthy waits until the API server finds its KMS providers good.
func (c *Cluster) Healthy(t testing.TB, within time.Duration) time.Duration {
	t.Helper()
	return Eventually(t, within, "the KMS providers are healthy", c.API.Health)
}

// Unhealthy waits until the API server finds its KMS providers bad for a reason
// that matches because, and returns what it says.
func (c *Cluster) Unhealthy(t testing.TB, within time.Duration, because *regexp.Regexp) (reason string) {
	t.Helper()
	Eventually(t, within, "the KMS providers are unhealthy because of "+because.String(), func(ctx context.Context) error {
		err := c.API.Health(ctx)
		if err == nil {
			return errors.New("they are healthy")
		}
		if reason = err.Error(); !because.MatchString(reason) {
			return fmt.Errorf("they are unhealthy for another reason: %w", err)
		}
		return nil
	})
	return reason
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
