package kmsv2_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/internal/bubble"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
	"github.com/keyfold/keyfold/kmsv2"
	"github.com/keyfold/keyfold/rotation"
)

// clock runs with the test's and can be put forward: days pass without the probes
// of days.
type clock struct{ ahead atomic.Int64 }

func (c *clock) Now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

// vault is a simulated HSM and what its operations log says.
type vault struct {
	t     testing.TB
	dir   string
	hsm   *hsmsim.HSM
	clock clock
}

func newVault(t testing.TB) *vault {
	t.Helper()
	v := &vault{t: t, dir: filepath.Join(t.TempDir(), "hsm")}
	hsm, err := hsmsim.Open(v.dir, hsmsim.Options{Now: v.clock.Now})
	must(t, err)
	t.Cleanup(func() { hsm.Close() })
	v.hsm = hsm
	return v
}

// key makes the next version of a key.
func (v *vault) key(name string) hsmsim.Ref {
	v.t.Helper()
	version, err := v.hsm.Rotate(context.Background(), name)
	if errors.Is(err, envelope.ErrDeleted) {
		version, err = v.hsm.CreateKey(context.Background(), name, "AES-256")
	}
	must(v.t, err)
	return hsmsim.Ref{Name: name, Version: version.Version}
}

func (v *vault) kek(ref hsmsim.Ref) envelope.KEK {
	v.t.Helper()
	kek, err := v.hsm.KEK(ref)
	must(v.t, err)
	return kek
}

func (v *vault) id(ref hsmsim.Ref) string {
	i, ok := envelope.As[envelope.Identifier](v.kek(ref))
	if !ok {
		v.t.Fatalf("%v has no id", ref)
	}
	return i.KeyID()
}

func (v *vault) enable(ref hsmsim.Ref, enabled bool) {
	v.t.Helper()
	must(v.t, v.hsm.SetEnabled(context.Background(), ref.Name, ref.Version, enabled))
}

func (v *vault) expire(ref hsmsim.Ref, at time.Time) {
	v.t.Helper()
	must(v.t, v.hsm.SetExpiry(context.Background(), ref.Name, ref.Version, at))
}

func (v *vault) outage(down bool) {
	v.t.Helper()
	must(v.t, hsmsim.WriteFaults(v.dir, hsmsim.Faults{Outage: down}))
}

// operations counts what was asked of the vault.
func (v *vault) operations(ops ...hsmsim.Operation) int {
	v.t.Helper()
	n := 0
	for e, err := range hsmsim.ReadLog(v.dir) {
		must(v.t, err)
		for _, op := range ops {
			if e.Operation == op {
				n++
			}
		}
	}
	return n
}

// plugin is a running Service.
type plugin struct {
	*kmsv2.Service
	t    testing.TB
	ring *rotation.Ring
	log  *logBuffer
	stop func() // ends it as a kill would: nothing is saved or said
}

type setup struct {
	ring    rotation.Config
	options kmsv2.Options
	quiet   bool // without a log, as in production below debug level
}

// current is the configuration with one key.
func (v *vault) current(ref hsmsim.Ref) rotation.Config {
	return rotation.Config{Current: rotation.Key{KEK: v.kek(ref)}}
}

// rotated is the configuration after a rotation.
func (v *vault) rotated(to, from hsmsim.Ref) rotation.Config {
	return rotation.Config{Current: rotation.Key{KEK: v.kek(to)}, Previous: &rotation.Key{KEK: v.kek(from)}}
}

func start(t testing.TB, s setup) *plugin {
	t.Helper()
	log := &logBuffer{}
	if !s.quiet {
		s.options.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	ring, err := rotation.New(s.ring, rotation.Options{Now: s.options.Now, Logger: s.options.Logger})
	must(t, err)
	svc, err := kmsv2.New(ring, s.options)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
			svc.Close()
		})
	}
	t.Cleanup(stop)
	return &plugin{Service: svc, t: t, ring: ring, log: log, stop: stop}
}

// status calls Status and returns the key id.
func (p *plugin) status() string {
	p.t.Helper()
	r, err := p.Status(within(p.t, 3*time.Second))
	must(p.t, err)
	if r.Version != "v2" || r.Healthz != "ok" || r.KeyID == "" {
		p.t.Fatalf("Status = %+v", r)
	}
	return r.KeyID
}

func (p *plugin) encrypt(plaintext string) *service.EncryptResponse {
	p.t.Helper()
	r, err := p.Encrypt(context.Background(), "uid-e", []byte(plaintext))
	must(p.t, err)
	return r
}

// opens checks that Decrypt of r gives plaintext.
func (p *plugin) opens(r *service.EncryptResponse, plaintext string) {
	p.t.Helper()
	got, err := p.Decrypt(context.Background(), "uid-d", request(r))
	must(p.t, err)
	if string(got) != plaintext {
		p.t.Fatalf("Decrypt = %q, want %q", got, plaintext)
	}
}

func request(r *service.EncryptResponse) *service.DecryptRequest {
	return &service.DecryptRequest{Ciphertext: r.Ciphertext, KeyID: r.KeyID, Annotations: r.Annotations}
}

// inBubble runs a test on a fake clock.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		// A test that hangs does not stand still here: the probes go on, years pass, and
		// what they log fills the memory.
		hangs := time.AfterFunc(30*24*time.Hour, func() { panic("the test hangs") })
		defer hangs.Stop()
		f(t)
	})
}

// pass lets time pass, and everything that it brings about.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantClass checks an error's class.
func wantClass(t testing.TB, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("error %v is not of class %q", err, class)
	}
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
