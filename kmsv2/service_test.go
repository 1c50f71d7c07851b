package kmsv2_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyfold/keyfold/cache"
	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
	"github.com/keyfold/keyfold/kmsv2"
	"github.com/keyfold/keyfold/rotation"
)

const testDomain kmsv2.Domain = "keyfold/kms/test"

func TestRoundTrip(t *testing.T) {
	v := newVault(t)
	ref := v.key("kek")
	p := start(t, setup{ring: v.current(ref)})
	if id := p.status(); id != v.id(ref) {
		t.Errorf("Status reports %q, not the id %q of the KEK", id, v.id(ref))
	}
	for _, size := range []int{1, 4, 32, kmsv2.MaxPlaintext} {
		plaintext := strings.Repeat("p", size)
		r := p.encrypt(plaintext)
		if r.KeyID != v.id(ref) {
			t.Errorf("Encrypt used %q, Status reported %q", r.KeyID, v.id(ref))
		}
		if len(r.Ciphertext) > 1024 {
			t.Errorf("a ciphertext of %d bytes", len(r.Ciphertext))
		}
		if len(r.Annotations) != 1 || len(r.Annotations[kmsv2.AnnotationHeader]) == 0 {
			t.Errorf("annotations %v", r.Annotations)
		}
		p.opens(r, plaintext)
	}
	a, b := p.encrypt("twice"), p.encrypt("twice")
	if bytes.Equal(a.Ciphertext, b.Ciphertext) {
		t.Error("two ciphertexts of one plaintext are equal")
	}
}

func TestSelfContainedRoundTrip(t *testing.T) {
	p := start(t, setup{ring: oneKey(t)})
	for _, size := range []int{1, 32, kmsv2.MaxSealed} {
		plaintext := bytes.Repeat([]byte("p"), size)
		env, err := p.Seal(context.Background(), testDomain, plaintext)
		must(t, err)
		if len(env) > 1<<16-1 {
			t.Errorf("%d bytes do not fit the storage format of KMS v1", len(env))
		}
		got, err := p.Open(context.Background(), testDomain, env)
		must(t, err)
		if !bytes.Equal(got, plaintext) {
			t.Errorf("a round trip of %d bytes returned others", size)
		}
		_, err = p.Open(context.Background(), "keyfold/kms/other", env)
		wantClass(t, err, envelope.ErrCorrupt)
	}
}

func oneKey(t testing.TB) rotation.Config {
	v := newVault(t)
	return v.current(v.key("kek"))
}

// An API server asks thousands of times at a start. The vault hears of it once.
func TestRequestsMakeNoRemoteCalls(t *testing.T) {
	v := newVault(t)
	p := start(t, setup{ring: v.current(v.key("kek"))})
	p.status()
	// With a vault that refuses everything, whatever still works is local.
	must(t, hsmsim.WriteFaults(v.dir, hsmsim.Faults{Outage: true}))
	for range 100 {
		p.opens(p.encrypt("seed"), "seed")
		env, err := p.Seal(context.Background(), testDomain, []byte("object key"))
		must(t, err)
		_, err = p.Open(context.Background(), testDomain, env)
		must(t, err)
	}
}

// An API server goes on using the very bytes that it hands over.
func TestCallersSlicesAreLeftAlone(t *testing.T) {
	p := start(t, setup{ring: oneKey(t)})
	plaintext := []byte("the API server's seed")
	r, err := p.Encrypt(context.Background(), "", plaintext)
	must(t, err)
	want := p.encrypt("other")
	if string(plaintext) != "the API server's seed" {
		t.Error("Encrypt changed the plaintext")
	}
	clear(plaintext)
	p.opens(r, "the API server's seed")

	before := request(r)
	before.Ciphertext = bytes.Clone(r.Ciphertext)
	header := bytes.Clone(r.Annotations[kmsv2.AnnotationHeader])
	got, err := p.Decrypt(context.Background(), "", request(r))
	must(t, err)
	if !bytes.Equal(r.Ciphertext, before.Ciphertext) || !bytes.Equal(header, r.Annotations[kmsv2.AnnotationHeader]) {
		t.Error("Decrypt changed the request")
	}
	// And what it returns is the caller's: nothing here looks at it again.
	clear(got)
	clear(r.Ciphertext)
	clear(r.Annotations[kmsv2.AnnotationHeader])
	p.opens(want, "other")
}

func TestConcurrentRequests(t *testing.T) {
	v := newVault(t)
	first, second := v.key("kek"), v.key("kek")
	// Quiet: the requests are without number, and so would be the lines of the log.
	p := start(t, setup{ring: v.current(first), options: kmsv2.Options{StateDir: t.TempDir()}, quiet: true})
	p.status()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	// work repeats f until the end or its first error.
	work := func(f func() error) {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := f(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 4 {
		work(func() error {
			r, err := p.Encrypt(context.Background(), "u", []byte("seed"))
			if err != nil {
				return err
			}
			got, err := p.Decrypt(context.Background(), "u", request(r))
			if err == nil && string(got) != "seed" {
				err = fmt.Errorf("Decrypt = %q", got)
			}
			return err
		})
	}
	work(func() error { p.Snapshot(); return nil })
	work(func() error {
		_, err := p.Status(context.Background())
		return err
	})
	for i := range 6 {
		to, from := first, second
		if i%2 == 0 {
			to, from = second, first
		}
		c := v.rotated(to, from)
		c.Current.Epoch = uint32(i + 1)
		must(t, p.ring.Reload(c))
		want := p.ring.Writer().KeyID
		for got := ""; got != want; {
			if ctx.Err() != nil {
				t.Fatalf("Status goes on reporting %q, not %q", got, want)
			}
			r, err := p.Status(context.Background())
			must(t, err)
			got = r.KeyID
		}
	}
}

// The uid leads from the API server's log to ours and to the vault's.
func TestUID(t *testing.T) {
	v := newVault(t)
	ref := v.key("kek")
	writer := start(t, setup{ring: v.current(ref)})
	r := writer.encrypt("seed")
	writer.stop()

	p := start(t, setup{ring: v.current(ref)})
	_, err := p.Decrypt(context.Background(), "uid-0123", request(r))
	must(t, err)
	if !strings.Contains(p.log.String(), "uid-0123") {
		t.Error("the log does not name the request's uid")
	}
	// An id that could not stand in a header is not passed on.
	_, err = start(t, setup{ring: v.current(ref)}).Decrypt(context.Background(), "a\r\nb: c", request(r))
	must(t, err)
	found := false
	for e, err := range hsmsim.ReadLog(v.dir) {
		must(t, err)
		found = found || e.RequestID == "uid-0123"
		if strings.ContainsAny(e.RequestID, "\r\n") {
			t.Errorf("the vault was told the uid %q", e.RequestID)
		}
	}
	if !found {
		t.Error("the vault was not told the request's uid")
	}
	for _, line := range strings.Split(p.log.String(), "\n") {
		if strings.Contains(line, "KMS request") && !strings.Contains(line, "level=DEBUG") {
			t.Errorf("a good request above debug level: %s", line)
		}
	}
}

type recorder struct {
	mu     sync.Mutex
	events []kmsv2.Event
}

func (r *recorder) Observe(e kmsv2.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func TestObserverAndSnapshot(t *testing.T) {
	v := newVault(t)
	ref := v.key("kek")
	seen := &recorder{}
	stateDir := t.TempDir()
	p := start(t, setup{ring: v.current(ref), options: kmsv2.Options{Observer: seen, StateDir: stateDir}})

	p.status()
	p.opens(p.encrypt("a secret word"), "a secret word")
	_, err := p.Decrypt(context.Background(), "", nil)
	wantClass(t, err, envelope.ErrInvalid)
	_, err = p.Open(context.Background(), testDomain, []byte("nonsense"))
	wantClass(t, err, envelope.ErrCorrupt)

	var got []kmsv2.Event
	seen.mu.Lock()
	for _, e := range seen.events {
		if e.Duration < 0 {
			t.Errorf("a request of %v", e.Duration)
		}
		e.Duration = 0
		got = append(got, e)
	}
	seen.mu.Unlock()
	want := []kmsv2.Event{
		{Domain: kmsv2.DomainV2, Operation: kmsv2.OperationStatus, Class: "ok"},
		{Domain: kmsv2.DomainV2, Operation: kmsv2.OperationEncrypt, Class: "ok"},
		{Domain: kmsv2.DomainV2, Operation: kmsv2.OperationDecrypt, Class: "ok"},
		{Domain: kmsv2.DomainV2, Operation: kmsv2.OperationDecrypt, Class: "invalid"},
		{Domain: testDomain, Operation: kmsv2.OperationDecrypt, Class: "corrupt"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("events\n%v, want\n%v", got, want)
	}

	snap := p.Snapshot()
	if snap.Class != "ok" || snap.KeyID != v.id(ref) || snap.ReportedKeyID != v.id(ref) {
		t.Errorf("snapshot %+v", snap)
	}
	if snap.DEK == nil || !snap.DEK.Saved || len(snap.DEK.ID) != 32 {
		t.Errorf("DEK %+v", snap.DEK)
	}
	if snap.Settings.OutageGraceSeconds != 12*3600 || snap.Settings.RevocationBoundSeconds > 60 || snap.Settings.StateDir != stateDir {
		t.Errorf("settings %+v", snap.Settings)
	}
	if len(snap.Keys) != 1 || len(snap.Requests) != len(want) {
		t.Errorf("%d keys, %d kinds of requests", len(snap.Keys), len(snap.Requests))
	}
	raw, err := json.Marshal(snap)
	must(t, err)
	if k := snap.Keys[0]; !k.Writer || k.ID != v.id(ref) || k.LastWrap.IsZero() || !strings.Contains(string(raw), `"role":"current"`) {
		t.Errorf("key %+v in %s", k, raw)
	}
	if strings.Contains(string(raw), "secret word") {
		t.Error("the snapshot holds plaintext")
	}
}

// Version and epoch are there for whoever reads no key ids, and only where there is
// an id to read.
func TestSnapshotOfKeyVersions(t *testing.T) {
	v := newVault(t)
	ref := v.key("kek")
	ring, err := rotation.New(rotation.Config{
		Current: rotation.Key{KEK: v.kek(ref), Epoch: 3},
		Read:    []rotation.Key{{KEK: v.kek(hsmsim.Ref{Name: "old"})}},
	}, rotation.Options{})
	must(t, err)
	svc, err := kmsv2.New(ring, kmsv2.Options{})
	must(t, err)
	t.Cleanup(svc.Close)
	keys := svc.Snapshot().Keys
	if len(keys) != 2 || keys[0].ID != v.id(ref)+".3" || keys[0].Version != ref.Version || keys[0].Epoch != 3 {
		t.Fatalf("keys %+v", keys)
	}
	raw, err := json.Marshal(keys[0])
	must(t, err)
	if !strings.Contains(string(raw), `"version":"`+ref.Version+`","epoch":3`) {
		t.Errorf("current is %s", raw)
	}
	raw, err = json.Marshal(keys[1])
	must(t, err)
	if keys[1].ID != "" || strings.Contains(string(raw), "version") || strings.Contains(string(raw), "epoch") {
		t.Errorf("a key whose version is not known is %s", raw)
	}
}

// A request that panics is not counted as a good one, and the panic goes on to whom
// it concerns.
func TestPanicIsObserved(t *testing.T) {
	v := newVault(t)
	ref := v.key("kek")
	stored := sealedUnder(t, v.kek(ref), v.id(ref))
	h, _, err := envelope.Inspect(stored.Annotations[kmsv2.AnnotationHeader])
	must(t, err)
	kek := &panicking{KEK: v.kek(ref), blob: h.Wraps[0].Blob}
	seen := &recorder{}
	p := start(t, setup{ring: rotation.Config{Current: rotation.Key{KEK: kek}}, options: kmsv2.Options{Observer: seen}})
	p.status()
	var met any
	func() {
		defer func() { met = recover() }()
		p.Decrypt(context.Background(), "", request(stored))
	}()
	if met == nil {
		t.Error("the panic was swallowed")
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if e := seen.events[len(seen.events)-1]; e.Operation != kmsv2.OperationDecrypt || e.Class != "internal" {
		t.Errorf("event %+v", e)
	}
	if strings.Contains(p.log.String(), "secret in a panic") {
		t.Error("the log repeats what the panic said")
	}
}

// panicking is a KEK with a bug that one wrapped key brings out.
type panicking struct {
	envelope.KEK
	blob []byte
}

func (p *panicking) Underlying() envelope.KEK { return p.KEK }

func (p *panicking) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	if bytes.Equal(w.Blob, p.blob) {
		panic("secret in a panic")
	}
	return p.KEK.Unwrap(ctx, w)
}

func TestNewRefusesContradictions(t *testing.T) {
	ring, err := rotation.New(oneKey(t), rotation.Options{})
	must(t, err)
	for name, f := range map[string]func() (*kmsv2.Service, error){
		"no ring":        func() (*kmsv2.Service, error) { return kmsv2.New(nil, kmsv2.Options{}) },
		"negative grace": func() (*kmsv2.Service, error) { return kmsv2.New(ring, kmsv2.Options{OutageGrace: -1}) },
		"another gate": func() (*kmsv2.Service, error) {
			return kmsv2.New(ring, kmsv2.Options{Cache: cache.Options{Gate: ring}})
		},
		"another clock": func() (*kmsv2.Service, error) {
			return kmsv2.New(ring, kmsv2.Options{Cache: cache.Options{Now: time.Now}})
		},
		"a negative bound": func() (*kmsv2.Service, error) {
			return kmsv2.New(ring, kmsv2.Options{Cache: cache.Options{Entries: -1}})
		},
		"a state file path": func() (*kmsv2.Service, error) { return kmsv2.New(ring, kmsv2.Options{StateDir: "/dev/null"}) },
	} {
		_, err := f()
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		wantClass(t, err, envelope.ErrInvalid)
	}
}

func TestRunOnceAndClose(t *testing.T) {
	p := start(t, setup{ring: oneKey(t)})
	r := p.encrypt("seed")
	wantClass(t, p.Run(context.Background()), envelope.ErrInvalid)
	p.stop()
	for name, err := range map[string]error{
		"status":  second(p.Status(context.Background())),
		"encrypt": second(p.Encrypt(context.Background(), "", []byte("x"))),
		"decrypt": second(p.Decrypt(context.Background(), "", request(r))),
		"healthz": p.Healthz(context.Background()),
	} {
		if err == nil {
			t.Errorf("%s works on a closed service", name)
			continue
		}
		wantClass(t, err, envelope.ErrUnreachable)
	}
}

// Close holds even if Run goes on.
func TestCloseWhileRunning(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		first, next := v.key("kek"), v.key("kek")
		p := start(t, setup{ring: v.current(first)})
		p.status()
		p.Close()
		must(t, p.ring.Reload(v.rotated(next, first)))
		pass(time.Minute)
		_, err := p.Status(context.Background())
		wantClass(t, err, envelope.ErrUnreachable)
		if s := p.Snapshot(); s.KeyID != "" || s.DEK != nil {
			t.Errorf("a key %q after Close", s.KeyID)
		}
	})
}

func second[T any](_ T, err error) error { return err }
