package rotation_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/rotation"
)

// vault is a key store in memory that can be disturbed. Its blobs are no secrets:
// what is tested here is who is asked for what.
type vault struct {
	mu         sync.Mutex
	latest     map[string]string // key name to the version that an unpinned wrap uses
	wrap       map[string]error  // by version
	unwrap     map[string]error
	outage     error // of everything
	hang       bool  // everything waits for the end of its context
	describe   error
	expires    map[string]time.Time
	wrapped    int
	unwrapped  int
	seen       []string // ids that came to Unwrap
	beforeWrap func()
}

func newVault() *vault {
	return &vault{
		latest: map[string]string{}, wrap: map[string]error{}, unwrap: map[string]error{}, expires: map[string]time.Time{},
	}
}

// set changes the vault under its lock.
func (v *vault) set(change func(v *vault)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(v)
}

// refuse makes one version answer err to everything; nil ends that.
func (v *vault) refuse(version string, err error) {
	v.set(func(v *vault) { v.wrap[version], v.unwrap[version] = err, err })
}

func (v *vault) ids() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]string(nil), v.seen...)
}

func (v *vault) calls() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.wrapped + v.unwrapped
}

// versionless is a KEK that wraps under the latest version of a key.
type versionless struct {
	vault   *vault
	name    string
	version string
}

// pinned is a KEK of one version; it alone knows its id.
type pinned struct{ versionless }

var (
	_ envelope.Pinner     = versionless{}
	_ envelope.Describer  = versionless{}
	_ envelope.Identifier = pinned{}
)

func (v *vault) key(name, version string) envelope.KEK { return pinned{versionless{v, name, version}} }
func (v *vault) anyVersion(name string) envelope.KEK   { return versionless{vault: v, name: name} }

func familyOf(name string) string { return envelope.Family("fake", "vault", name) }

func keyID(name, version string, epoch uint32) string {
	return envelope.KeyID{Family: familyOf(name), Version: version, Epoch: epoch}.String()
}

func (k pinned) KeyID() string { return keyID(k.name, k.version, 0) }

func (k versionless) KeyFamily() string { return familyOf(k.name) }

func (k versionless) Pin(version string) (envelope.KEK, error) {
	return k.vault.key(k.name, version), nil
}

func (k versionless) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	v := k.vault
	v.mu.Lock()
	before := v.beforeWrap
	hang := v.hang
	v.mu.Unlock()
	if before != nil {
		before()
	}
	if hang {
		<-ctx.Done()
		return envelope.WrappedKey{}, ctx.Err()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.wrapped++
	version := k.version
	if version == "" {
		version = v.latest[k.name]
	}
	if err := errors.Join(v.outage, v.wrap[version]); err != nil {
		return envelope.WrappedKey{}, err
	}
	id := keyID(k.name, version, 0)
	return envelope.WrappedKey{KeyID: id, Algorithm: "fake", Blob: append([]byte(id), dek...)}, nil
}

func (k versionless) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	v := k.vault
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seen = append(v.seen, w.KeyID)
	id, err := envelope.ParseKeyID(w.KeyID)
	if err != nil || id.Family != familyOf(k.name) {
		return nil, envelope.ErrUnknownKey
	}
	v.unwrapped++
	if err := errors.Join(v.outage, v.unwrap[id.Version]); err != nil {
		return nil, err
	}
	dek, ok := bytes.CutPrefix(w.Blob, []byte(w.KeyID))
	if !ok {
		return nil, envelope.ErrCorrupt
	}
	return bytes.Clone(dek), nil
}

func (k versionless) Describe(context.Context) (envelope.KeyInfo, error) {
	v := k.vault
	v.mu.Lock()
	defer v.mu.Unlock()
	version := k.version
	if version == "" {
		version = v.latest[k.name]
	}
	if v.describe != nil {
		return envelope.KeyInfo{}, v.describe
	}
	return envelope.KeyInfo{
		ID: keyID(k.name, version, 0), Name: "vault/" + k.name + "/" + version, Version: version, Enabled: true, Expires: v.expires[version],
	}, nil
}

// bare is a KEK without any capability, whose ids are FAMILY/VERSION all the same.
type bare struct{ envelope.KEK }

// describing is a bare KEK that can also describe itself.
type describing struct {
	bare
	envelope.Describer
}

// forgetful is a key that wraps one thing and unwraps another.
type forgetful struct{ envelope.KEK }

func (k forgetful) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	if _, err := k.KEK.Unwrap(ctx, w); err != nil {
		return nil, err
	}
	return make([]byte, 32), nil
}

// own is somebody else's back end: ids of its own form, and no capabilities.
type own struct {
	id    string
	calls int
}

func (k *own) Wrap(_ context.Context, dek []byte) (envelope.WrappedKey, error) {
	return envelope.WrappedKey{KeyID: k.id, Algorithm: "own", Blob: bytes.Clone(dek)}, nil
}

func (k *own) Unwrap(_ context.Context, w envelope.WrappedKey) ([]byte, error) {
	k.calls++
	if w.KeyID != k.id {
		return nil, envelope.ErrUnknownKey
	}
	return bytes.Clone(w.Blob), nil
}

// identifiedOwn is an own that tells its id.
type identifiedOwn struct{ own }

func (k *identifiedOwn) KeyID() string { return k.id }

var dek = []byte("0123456789abcdef0123456789abcdef")

func newRing(t testing.TB, cfg rotation.Config, o rotation.Options) *rotation.Ring {
	t.Helper()
	r, err := rotation.New(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func one(k envelope.KEK) rotation.Config { return rotation.Config{Current: rotation.Key{KEK: k}} }

func two(current, previous envelope.KEK) rotation.Config {
	return rotation.Config{Current: rotation.Key{KEK: current}, Previous: &rotation.Key{KEK: previous}}
}

func mustWrap(t testing.TB, k envelope.Wrapper) envelope.WrappedKey {
	t.Helper()
	w, err := k.Wrap(t.Context(), dek)
	if err != nil {
		t.Fatalf("Wrap: %v", err)
	}
	return w
}

func mustUnwrap(t testing.TB, k envelope.Unwrapper, w envelope.WrappedKey) {
	t.Helper()
	got, err := k.Unwrap(t.Context(), w)
	if err != nil || !bytes.Equal(got, dek) {
		t.Fatalf("Unwrap(%s) = %q, %v", w.KeyID, got, err)
	}
}

func wantClass(t testing.TB, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("error %v, want %v", err, class)
	}
}

func wantState(t testing.TB, h rotation.Health, want rotation.State) {
	t.Helper()
	if h.State != want {
		t.Fatalf("state %v (%v), want %v", h.State, h.Err, want)
	}
}

// start runs the ring's background work until the test ends.
func start(t testing.TB, r *rotation.Ring) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
}

// logbook collects log records as lines.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// count returns the number of lines that contain all of these words.
func (l *logbook) count(words ...string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
lines:
	for line := range strings.Lines(l.buf.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		n++
	}
	return n
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
