package harness

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyfold/keyfold/internal/e2e/config"
)

const adminToken = "e2e-admin"

// APIServer is a kube-apiserver process and its clients.
type APIServer struct {
	*Process
	// Client does not throttle itself and never retries: what it reports is
	// what the API server answered.
	Client *kubernetes.Clientset

	encryption string // path of the encryption configuration
}

// newAPIServer prepares an API server that stores in etcd. Its port and clients
// stay the same over all its lives.
func newAPIServer(t testing.TB, bins Binaries, dir, logDir, etcdURL string, providers []Provider, env []string) *APIServer {
	t.Helper()
	path := func(name string) string { return filepath.Join(dir, name) }
	a := &APIServer{encryption: path("encryption.yaml")}
	write := func(path string, content []byte) {
		if err := config.Replace(path, content); err != nil {
			t.Fatal(err)
		}
	}
	write(a.encryption, encryptionConfig(providers))
	write(path("tokens.csv"), []byte(adminToken+`,admin,admin,"system:masters"`+"\n"))
	write(path("service-account.pem"), newSigningKey(t))

	address := freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	a.Process = NewProcess(t, logDir, Command{Name: "kube-apiserver", Path: bins.APIServer, Env: env, Args: []string{
		"--etcd-servers=" + etcdURL,
		"--cert-dir=" + path("certs"), "--bind-address=127.0.0.1", "--secure-port=" + port,
		"--service-account-issuer=https://e2e.keyfold.invalid",
		"--service-account-signing-key-file=" + path("service-account.pem"),
		"--service-account-key-file=" + path("service-account.pem"),
		"--service-cluster-ip-range=10.0.0.0/24",
		"--authorization-mode=RBAC", "--token-auth-file=" + path("tokens.csv"),
		"--disable-admission-plugins=ServiceAccount",
		"--encryption-provider-config=" + a.encryption,
		"--encryption-provider-config-automatic-reload=true",
		"--feature-gates=KMSv1=true",
		"--max-requests-inflight=2000", "--max-mutating-requests-inflight=1000",
		"-v=2",
	}})
	a.Client, err = kubernetes.NewForConfig(&rest.Config{
		Host: "https://" + address, BearerToken: adminToken, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true}, // loopback, a certificate of its own making
		ContentConfig:   rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// StartReady starts the API server and waits until it is ready, which includes its
// KMS providers.
func (a *APIServer) StartReady(t testing.TB) time.Duration {
	t.Helper()
	a.Start(t)
	return a.Ready(t, 90*time.Second)
}

// Ready waits until /readyz of the running API server is good.
func (a *APIServer) Ready(t testing.TB, within time.Duration) time.Duration {
	t.Helper()
	return Eventually(t, within, "the API server is ready", func(ctx context.Context) error {
		if err := a.mustRun(); err != nil {
			return err
		}
		_, err := a.get(ctx, "/readyz")
		return err
	})
}

// Health asks /healthz/kms-providers. The API server asks its providers in turn
// when their last answer is older than 20 s, or than 3 s after a failure.
func (a *APIServer) Health(ctx context.Context) error {
	_, err := a.get(ctx, "/healthz/kms-providers")
	return err
}

// Metric returns the sum of the samples whose name and labels contain every one
// of the given strings.
func (a *APIServer) Metric(ctx context.Context, contains ...string) (sum float64, found bool, err error) {
	body, err := a.get(ctx, "/metrics")
	if err != nil {
		return 0, false, err
	}
lines:
	for line := range strings.Lines(body) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		for _, c := range contains {
			if !strings.Contains(series, c) {
				continue lines
			}
		}
		var v float64
		if _, err := fmt.Sscan(value, &v); err != nil {
			return 0, false, fmt.Errorf("metric %q: %w", line, err)
		}
		sum, found = sum+v, true
	}
	return sum, found, nil
}

// Reload writes a new encryption configuration and waits until the API server
// says that it uses it.
func (a *APIServer) Reload(t testing.TB, providers ...Provider) time.Duration {
	t.Helper()
	content := encryptionConfig(providers)
	if err := config.Replace(a.encryption, content); err != nil {
		t.Fatal(err)
	}
	hash := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	return Eventually(t, 90*time.Second, "the API server uses the new encryption configuration", func(ctx context.Context) error {
		if err := a.mustRun(); err != nil {
			return err
		}
		_, found, err := a.Metric(ctx, "apiserver_encryption_config_controller_last_config_info", hash)
		if err == nil && !found {
			err = fmt.Errorf("%s is not the hash of the configuration in use", hash)
		}
		return err
	})
}

func (a *APIServer) get(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	b, err := a.Client.Discovery().RESTClient().Get().AbsPath(path).MaxRetries(0).Do(ctx).Raw()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", path, err, tail(string(b), 12))
	}
	return string(b), nil
}

// newSigningKey makes the key that an API server signs service account tokens
// with; no case uses such a token.
func newSigningKey(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}
