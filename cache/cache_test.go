package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyfold/keyfold/cache"
	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/internal/bubble"
)

func newCache(t testing.TB, u envelope.Unwrapper, o cache.Options) *cache.Cache {
	t.Helper()
	c, err := cache.New(u, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Purge)
	return c
}

// mustOpen opens a header through c and a message with what it gets.
func mustOpen(t testing.TB, c *cache.Cache, s sealed) *envelope.OpenKey {
	t.Helper()
	k, err := c.OpenKey(t.Context(), s.header)
	if err != nil {
		t.Fatalf("OpenKey: %v", err)
	}
	plaintext, err := k.Open(s.message, nil)
	if err != nil || string(plaintext) != "plaintext" {
		t.Fatalf("Open = %q, %v", plaintext, err)
	}
	return k
}

func wantClass(t testing.TB, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("error %v, want %v", err, class)
	}
	if typed := (*envelope.Error)(nil); !errors.As(err, &typed) {
		t.Fatalf("error %v is not an *envelope.Error", err)
	}
}

func wantUnwraps(t testing.TB, kek *fakeKEK, want int64) {
	t.Helper()
	if got := kek.unwraps.Load(); got != want {
		t.Fatalf("%d unwraps, want %d", got, want)
	}
}

func TestNewRefusesNonsense(t *testing.T) {
	for name, o := range map[string]cache.Options{
		"entries": {Entries: -1}, "age": {MaxAge: -1}, "ttl": {FailureTTL: -1},
	} {
		if _, err := cache.New(newFakeKEK("k"), o); !errors.Is(err, envelope.ErrInvalid) {
			t.Errorf("negative %s: %v", name, err)
		}
	}
	if _, err := cache.New(nil, cache.Options{}); !errors.Is(err, envelope.ErrInvalid) {
		t.Errorf("no unwrapper: %v", err)
	}
}

func TestOneUnwrapForEachDEK(t *testing.T) {
	kek := newFakeKEK("k")
	c := newCache(t, kek, cache.Options{})
	a, b := kek.seal(t), kek.seal(t)
	for range 3 {
		mustOpen(t, c, a)
		mustOpen(t, c, b)
	}
	wantUnwraps(t, kek, 2)
	if s, want := c.Stats(), (cache.Stats{Hits: 4, Misses: 2, Loads: 2, Entries: 2}); s != want {
		t.Errorf("stats %+v, want %+v", s, want)
	}
}

func TestCallersHeaderIsNotKept(t *testing.T) {
	kek := newFakeKEK("k")
	c := newCache(t, kek, cache.Options{})
	s := kek.seal(t)
	given := slices.Clone(s.header)
	if _, err := c.OpenKey(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(given, s.header) {
		t.Fatal("the caller's header was changed")
	}
	clear(given)
	mustOpen(t, c, s)
	wantUnwraps(t, kek, 1)
}

// Every single byte flipped, with the good header in the cache: never a key, and
// where id and tag still name the good one, never a call of the KEK.
func TestTamperedHeader(t *testing.T) {
	kek := newFakeKEK("k")
	c := newCache(t, kek, cache.Options{})
	s := kek.seal(t)
	mustOpen(t, c, s)
	for i := range s.header {
		forged := slices.Clone(s.header)
		forged[i] ^= 0x01
		before := kek.unwraps.Load()
		_, err := c.OpenKey(t.Context(), forged)
		named := i >= 7 && i < 7+16 || i >= len(forged)-32
		switch {
		case !errors.Is(err, envelope.ErrCorrupt) && !errors.Is(err, envelope.ErrUnknownKey):
			t.Fatalf("byte %d flipped: %v", i, err)
		case !named && kek.unwraps.Load() != before:
			t.Fatalf("byte %d flipped: the KEK was called", i)
		}
	}
	for _, bad := range [][]byte{nil, {}, s.header[:10], s.header[:len(s.header)-1], append(slices.Clone(s.header), 0)} {
		_, err := c.OpenKey(t.Context(), bad)
		wantClass(t, err, envelope.ErrCorrupt)
	}
	before := kek.unwraps.Load()
	mustOpen(t, c, s)
	wantUnwraps(t, kek, before)
	if s := c.Stats(); s.Entries != 1 {
		t.Errorf("%d entries after forgeries, want the good one", s.Entries)
	}
}

func TestHitAllocatesNothing(t *testing.T) {
	kek := newFakeKEK("k")
	c := newCache(t, kek, cache.Options{Gate: newGate()})
	header := kek.header(t)
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		if _, err := c.OpenKey(ctx, header); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a hit", n)
	}
}

func TestOpenerAsksAgainAfterAPurge(t *testing.T) {
	kek := newFakeKEK("k")
	c := newCache(t, kek, cache.Options{})
	s := kek.seal(t)
	k := mustOpen(t, c, s)
	c.Purge()
	if _, err := k.Open(s.message, nil); !errors.Is(err, envelope.ErrInvalid) {
		t.Fatalf("a purged key opened: %v", err)
	}
	if got := c.Stats().Entries; got != 0 {
		t.Fatalf("%d entries after a purge", got)
	}
	plaintext, err := envelope.NewOpenerFrom(c).OpenDetached(t.Context(), s.header, s.message, nil)
	if err != nil || string(plaintext) != "plaintext" {
		t.Fatalf("OpenDetached = %q, %v", plaintext, err)
	}
	wantUnwraps(t, kek, 2)
}

func TestGate(t *testing.T) {
	kek, g := newFakeKEK("k"), newGate()
	c := newCache(t, kek, cache.Options{Gate: g})
	s := kek.seal(t)
	k := mustOpen(t, c, s)

	g.set("k")
	kek.disturb(func(context.Context) error { return envelope.ErrDisabled })
	_, err := c.OpenKey(t.Context(), s.header)
	wantClass(t, err, envelope.ErrRevoked)
	if _, err := k.Open(s.message, nil); !errors.Is(err, envelope.ErrInvalid) {
		t.Fatalf("a key handed out before the revocation still opens: %v", err)
	}
	if got := c.Stats().Entries; got != 0 {
		t.Fatalf("%d entries held under a revoked key", got)
	}

	// Given back: neither the dropped key nor the remembered failure stands.
	kek.disturb(nil)
	g.set()
	mustOpen(t, c, s)
	wantUnwraps(t, kek, 3)

	// Another generation, the same answer: nothing is dropped.
	g.set("other")
	mustOpen(t, c, s)
	wantUnwraps(t, kek, 3)
}

// A key that nobody asks for is dropped and wiped as well.
func TestGateReachesWhatIsNotAskedFor(t *testing.T) {
	a, b, g := newFakeKEK("a"), newFakeKEK("b"), newGate()
	c := newCache(t, anyOf{a, b}, cache.Options{Gate: g})
	quiet, busy := a.seal(t), b.seal(t)
	k := mustOpen(t, c, quiet)
	mustOpen(t, c, busy)
	g.set("a")
	mustOpen(t, c, busy)
	if got := c.Stats().Entries; got != 1 {
		t.Fatalf("%d entries, want that of the key not revoked", got)
	}
	if _, err := k.Open(quiet.message, nil); !errors.Is(err, envelope.ErrInvalid) {
		t.Fatalf("the key nobody asked for still opens: %v", err)
	}
}

func TestGateShutDuringALoad(t *testing.T) {
	kek, g := newFakeKEK("k"), newGate()
	c := newCache(t, kek, cache.Options{Gate: g})
	s := kek.seal(t)
	kek.disturb(func(context.Context) error { g.set("k"); return nil })
	mustOpen(t, c, s) // unwrapped while the key was good
	if got := c.Stats().Entries; got != 0 {
		t.Fatalf("%d entries: a key not admitted was stored", got)
	}
}

func TestServedWhileOneOfItsKeysIsAdmitted(t *testing.T) {
	a, b, g := newFakeKEK("a"), newFakeKEK("b"), newGate()
	one := a.seal(t)
	rewrapper, err := envelope.NewRewrapper(a, a, b)
	if err != nil {
		t.Fatal(err)
	}
	header, err := rewrapper.Rewrap(t.Context(), one.header)
	if err != nil {
		t.Fatal(err)
	}
	both := sealed{header, one.message}
	before := a.unwraps.Load()
	c := newCache(t, a, cache.Options{Gate: g})
	mustOpen(t, c, both)
	for _, shut := range [][]string{{"a"}, {"b"}, {}} {
		g.set(shut...)
		mustOpen(t, c, both)
	}
	wantUnwraps(t, a, before+1)
	g.set("a", "b")
	mustOpen(t, c, both) // the fake KEK itself does not refuse: a miss shows the drop
	wantUnwraps(t, a, before+2)
}

func TestAge(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		kek := newFakeKEK("k")
		c := newCache(t, kek, cache.Options{MaxAge: time.Hour})
		s, own := kek.seal(t), kek.seal(t)
		pinned, err := envelope.OpenHeader(t.Context(), kek, own.header)
		if err != nil {
			t.Fatal(err)
		}
		c.Pin(pinned)
		mustOpen(t, c, s)
		for range 3 { // hits do not prolong
			time.Sleep(19 * time.Minute)
			mustOpen(t, c, s)
		}
		wantUnwraps(t, kek, 2)
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		if s := c.Stats(); s.Entries != 1 || s.Pinned != 1 {
			t.Fatalf("after an hour %+v, want the pinned key alone", s)
		}
		mustOpen(t, c, own)
		wantUnwraps(t, kek, 2)
		mustOpen(t, c, s)
		wantUnwraps(t, kek, 3)
	})
}

// The bound holds, and what is in use outlives what only passes through.
func TestEviction(t *testing.T) {
	kek := newFakeKEK("k")
	const entries = 8
	c := newCache(t, kek, cache.Options{Entries: entries})
	used := kek.seal(t)
	mustOpen(t, c, used)
	mustOpen(t, c, used)
	for range 10 * entries {
		mustOpen(t, c, kek.seal(t))
		if got := c.Stats().Entries; got > entries {
			t.Fatalf("%d entries, bound %d", got, entries)
		}
		mustOpen(t, c, used)
	}
	wantUnwraps(t, kek, 1+10*entries)
	if got := c.Stats().Hits; got != 1+10*entries {
		t.Errorf("%d hits counted, those of evicted keys too, want %d", got, 1+10*entries)
	}

	// Having been used once is no reason to stay for ever.
	for range 2 * entries {
		mustOpen(t, c, kek.seal(t))
	}
	before := kek.unwraps.Load()
	mustOpen(t, c, used)
	wantUnwraps(t, kek, before+1)
}

func TestLeastRecentlyUsedGoesFirst(t *testing.T) {
	kek := newFakeKEK("k")
	c := newCache(t, kek, cache.Options{Entries: 3})
	var s [4]sealed
	for i := range s {
		s[i] = kek.seal(t)
	}
	for _, i := range []int{0, 1, 2, 0, 3} { // 1 is the oldest not used since
		mustOpen(t, c, s[i])
	}
	before := kek.unwraps.Load()
	for _, i := range []int{0, 2, 3} {
		mustOpen(t, c, s[i])
	}
	wantUnwraps(t, kek, before)
	mustOpen(t, c, s[1])
	wantUnwraps(t, kek, before+1)
}

// An evicted key may be in somebody's hand. It must work for as long as it is.
func TestEvictedKeyStillServesItsReader(t *testing.T) {
	kek := newFakeKEK("k")
	c := newCache(t, kek, cache.Options{Entries: 1})
	s := kek.seal(t)
	k, err := c.OpenKey(t.Context(), s.header)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		mustOpen(t, c, kek.seal(t))
		runtime.GC()
	}
	if plaintext, err := k.Open(s.message, nil); err != nil || string(plaintext) != "plaintext" {
		t.Fatalf("Open = %q, %v", plaintext, err)
	}
}

func TestPinned(t *testing.T) {
	kek := newFakeKEK("k")
	c := newCache(t, kek, cache.Options{Entries: 4})
	sealer, err := envelope.NewSealer(kek, envelope.SealerOptions{
		OnNewDEK: func(k *envelope.OpenKey, _ time.Time) { c.Pin(k) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sealer.Close()
	if err := sealer.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, c, sealOne(t, sealer))
	wantUnwraps(t, kek, 0)

	var own [3]sealed
	for i := range own {
		own[i] = kek.seal(t)
		pin(t, c, kek, own[i])
		pin(t, c, kek, own[i]) // again, as after a resume: no change
	}
	for range 40 {
		mustOpen(t, c, kek.seal(t))
	}
	if s := c.Stats(); s.Pinned != 2 || s.Entries != 2+4 {
		t.Fatalf("%+v, want the last two pinned and four others", s)
	}
	before := kek.unwraps.Load()
	mustOpen(t, c, own[1])
	mustOpen(t, c, own[2])
	wantUnwraps(t, kek, before)
	mustOpen(t, c, own[0]) // became an ordinary entry, and the flood evicted it
	wantUnwraps(t, kek, before+1)
}

func TestPinTurnsAnOrdinaryEntryIntoAPinnedOne(t *testing.T) {
	kek := newFakeKEK("k")
	c := newCache(t, kek, cache.Options{Entries: 1})
	s := kek.seal(t)
	c.Pin(mustOpen(t, c, s))
	mustOpen(t, c, kek.seal(t))
	mustOpen(t, c, kek.seal(t))
	before := kek.unwraps.Load()
	mustOpen(t, c, s)
	wantUnwraps(t, kek, before)
}

// A revocation takes the pinned keys as well; given back, they are pinned again.
func TestPinnedKeyIsNotAboveTheGate(t *testing.T) {
	kek, g := newFakeKEK("k"), newGate()
	c := newCache(t, kek, cache.Options{Entries: 1, Gate: g})
	s := kek.seal(t)
	pin(t, c, kek, s)
	g.set("k")
	kek.disturb(func(context.Context) error { return envelope.ErrDisabled })
	_, err := c.OpenKey(t.Context(), s.header)
	wantClass(t, err, envelope.ErrRevoked)
	refused, err := envelope.OpenHeader(t.Context(), newCopy(kek), s.header)
	if err != nil {
		t.Fatal(err)
	}
	c.Pin(refused)
	_, err = refused.Open(s.message, nil)
	wantClass(t, err, envelope.ErrInvalid) // wiped
	if got := c.Stats().Entries; got != 0 {
		t.Fatalf("%d entries under a revoked key", got)
	}
	kek.disturb(nil)
	g.set()
	mustOpen(t, c, s)
	if got := c.Stats().Pinned; got != 1 {
		t.Fatalf("%d pinned after the key was given back, want 1", got)
	}
}

// Whoever has a public key can mint DEKs and forge headers without end. Neither may
// cost memory beyond the bound or the Sealer's own keys their place.
func TestFloodIsBounded(t *testing.T) {
	kek := newFakeKEK("k")
	c := newCache(t, kek, cache.Options{Entries: 32})
	own := kek.seal(t)
	pin(t, c, kek, own)
	flood := func(n int) {
		for range n {
			s := kek.seal(t)
			mustOpen(t, c, s)
			s.header[len(s.header)-1] ^= 1
			if _, err := c.OpenKey(t.Context(), s.header); !errors.Is(err, envelope.ErrCorrupt) {
				t.Fatalf("forged: %v", err)
			}
		}
	}
	heap := func() uint64 {
		var m runtime.MemStats
		for range 3 { // finalizers let go of a key one cycle after it was found unused
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	flood(1200) // every store is full after this
	before := heap()
	flood(3000)
	if after := heap(); after > before+1<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	if s := c.Stats(); s.Entries > 33 || s.Pinned != 1 {
		t.Errorf("%+v, want at most 32 entries and the pinned one", s)
	}
	unwraps := kek.unwraps.Load()
	mustOpen(t, c, own)
	wantUnwraps(t, kek, unwraps)
}

func sealOne(t testing.TB, s *envelope.Sealer) sealed {
	t.Helper()
	header, message, err := s.SealDetached(t.Context(), []byte("plaintext"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return sealed{header, message}
}

// pin pins a key of its own for s, as a Sealer does.
func pin(t testing.TB, c *cache.Cache, kek *fakeKEK, s sealed) {
	t.Helper()
	k, err := envelope.OpenHeader(t.Context(), newCopy(kek), s.header)
	if err != nil {
		t.Fatal(err)
	}
	c.Pin(k)
}

// newCopy is the same key, neither counted nor disturbed.
func newCopy(k *fakeKEK) *fakeKEK { return &fakeKEK{id: k.id, aead: k.aead} }

func ExampleNew() {
	kek := newFakeKEK("kek") // in earnest: a key in a vault
	c, err := cache.New(kek, cache.Options{Entries: 1000})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Purge()
	sealer, err := envelope.NewSealer(kek, envelope.SealerOptions{
		OnNewDEK: func(k *envelope.OpenKey, _ time.Time) { c.Pin(k) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer sealer.Close()

	ctx := context.Background()
	sealed, err := sealer.Seal(ctx, []byte("attack at dawn"), []byte("orders/7"))
	if err != nil {
		fmt.Println(err)
		return
	}
	opened, err := envelope.NewOpenerFrom(c).Open(ctx, sealed, []byte("orders/7"))
	fmt.Printf("%s, %v, unwraps: %d\n", opened, err, kek.unwraps.Load())
	// Output: attack at dawn, <nil>, unwraps: 0
}
