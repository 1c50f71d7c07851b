package kmstest_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/internal/bubble"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
	"github.com/keyfold/keyfold/kmsv2"
	"github.com/keyfold/keyfold/kmsv2/kmstest"
	"github.com/keyfold/keyfold/rotation"
)

// TestKeyfoldPlugin judges our own plugin through its socket.
func TestKeyfoldPlugin(t *testing.T) {
	k := newKeyfold(t)
	k.endpoint = fmt.Sprintf("unix:///@keyfold-kmstest-%d", os.Getpid())
	k.start()
	o := k.options()
	// Revocation takes most of a minute to confirm: TestKeyfoldService has the time.
	o.Revoke, o.Restore = nil, nil
	kmstest.Run(t, k.endpoint, o)
}

// TestKeyfoldService judges it in process, where the clock is fake.
func TestKeyfoldService(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		k := newKeyfold(t)
		k.start()
		for _, r := range kmstest.Check(t.Context(), k, k.options()) {
			if want := outcomeInProcess(r.Rule); r.Outcome != want {
				t.Errorf("%s: %s, want %s: %v", r.Rule.Name, r.Outcome, want, r.Err)
			}
		}
		k.stop()
	})
}

// keyfold is a service with its HSM, ring and state folder, and what an operator does
// to them.
type keyfold struct {
	t        *testing.T
	hsm      *hsmsim.HSM
	stateDir string
	endpoint string // empty: no socket
	versions []string

	mu      sync.Mutex
	ring    *rotation.Ring
	service *kmsv2.Service
	stop    func()
}

const kekName = "kek"

func newKeyfold(t *testing.T) *keyfold {
	t.Helper()
	dir := t.TempDir()
	hsm, err := hsmsim.Open(filepath.Join(dir, "hsm"), hsmsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hsm.Close() })
	first, err := hsm.CreateKey(t.Context(), kekName, hsmsim.AES256)
	if err != nil {
		t.Fatal(err)
	}
	return &keyfold{t: t, hsm: hsm, stateDir: filepath.Join(dir, "state"), versions: []string{first.Version}}
}

// config makes the last version current and the one before it previous.
func (k *keyfold) config() rotation.Config {
	key := func(version string) rotation.Key {
		kek, err := k.hsm.KEK(hsmsim.Ref{Name: kekName, Version: version})
		if err != nil {
			k.t.Fatal(err)
		}
		return rotation.Key{KEK: kek}
	}
	n := len(k.versions)
	cfg := rotation.Config{Current: key(k.versions[n-1])}
	if n > 1 {
		previous := key(k.versions[n-2])
		cfg.Previous = &previous
	}
	return cfg
}

// start is the beginning of a process, and stop the end of it.
func (k *keyfold) start() {
	k.t.Helper()
	ring, err := rotation.New(k.config(), rotation.Options{})
	if err != nil {
		k.t.Fatal(err)
	}
	svc, err := kmsv2.New(ring, kmsv2.Options{StateDir: k.stateDir})
	if err != nil {
		k.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := svc.Run(ctx); err != nil {
			k.t.Errorf("Run: %v", err)
		}
	})
	if k.endpoint != "" {
		l, err := kmsv2.Listen(k.endpoint, kmsv2.ListenOptions{})
		if err != nil {
			cancel()
			k.t.Fatal(err)
		}
		srv := kmsv2.NewServer(svc, kmsv2.ServerOptions{})
		wg.Go(func() {
			if err := srv.Serve(ctx, l); err != nil {
				k.t.Errorf("Serve: %v", err)
			}
		})
	}
	stop := sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		svc.Close()
	})
	k.t.Cleanup(stop)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ring, k.service, k.stop = ring, svc, stop
}

func (k *keyfold) options() kmstest.Options {
	return kmstest.Options{
		Rotate: func(ctx context.Context) error {
			next, err := k.hsm.Rotate(ctx, kekName)
			if err != nil {
				return err
			}
			k.versions = append(k.versions, next.Version)
			return k.ring.Reload(k.config())
		},
		Restart: func(context.Context) error {
			k.stop()
			k.start()
			return nil
		},
		Revoke:  func(ctx context.Context) error { return k.hsm.SetEnabled(ctx, kekName, k.last(), false) },
		Restore: func(ctx context.Context) error { return k.hsm.SetEnabled(ctx, kekName, k.last(), true) },
	}
}

func (k *keyfold) last() string { return k.versions[len(k.versions)-1] }

// Status, Encrypt and Decrypt are those of the process that runs at the moment.
func (k *keyfold) Status(ctx context.Context) (*service.StatusResponse, error) {
	return k.now().Status(ctx)
}

func (k *keyfold) Encrypt(ctx context.Context, uid string, plaintext []byte) (*service.EncryptResponse, error) {
	return k.now().Encrypt(ctx, uid, plaintext)
}

func (k *keyfold) Decrypt(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
	return k.now().Decrypt(ctx, uid, req)
}

func (k *keyfold) now() *kmsv2.Service {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.service
}
