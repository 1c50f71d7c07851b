package cache_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyfold/keyfold/cache"
	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/internal/bubble"
)

// TestModel runs random operations against the cache and against what it should be:
// a map from DEK to the time at which it expires. There is room for all DEKs, so
// that the model need not know what an LRU evicts.
func TestModel(t *testing.T) {
	for seed := range uint64(8) {
		bubble.Test(t, func(t *testing.T) { runModel(t, rand.New(rand.NewPCG(seed, 1)), 1500) })
	}
}

func runModel(t *testing.T, rnd *rand.Rand, steps int) {
	const maxAge, ttl = time.Hour, 10 * time.Second
	keks := []*fakeKEK{newFakeKEK("a"), newFakeKEK("b")}
	g := newGate()
	var broken error // what both KEKs answer
	for _, k := range keks {
		k.disturb(func(context.Context) error { return broken })
	}
	c := newCache(t, anyOf(keks), cache.Options{Entries: 32, MaxAge: maxAge, FailureTTL: ttl, Gate: g})

	type dek struct {
		sealed
		kek     int
		expires time.Time // zero: not held
		pinned  bool
		failed  time.Time // until when a failure is remembered
		class   error
	}
	var deks []*dek
	for i := range 24 {
		deks = append(deks, &dek{sealed: keks[i%2].seal(t), kek: i % 2})
	}
	stranger := newFakeKEK("stranger").header(t)
	var pins []*dek
	shut := []bool{false, false}
	held := func(d *dek) bool { return d.pinned && !d.expires.IsZero() || time.Now().Before(d.expires) }
	unwraps := func() int64 { return keks[0].unwraps.Load() + keks[1].unwraps.Load() }

	for range steps {
		d := deks[rnd.IntN(len(deks))]
		switch op := rnd.IntN(100); {
		case op < 70: // open
			before := unwraps()
			k, err := c.OpenKey(t.Context(), d.header)
			called := unwraps() != before
			switch {
			case held(d):
				if err != nil || called {
					t.Fatalf("held: called %v, %v", called, err)
				}
			case time.Now().Before(d.failed):
				if !errors.Is(err, d.class) || called {
					t.Fatalf("failed before: called %v, %v", called, err)
				}
			case broken != nil:
				if !errors.Is(err, broken) || !called {
					t.Fatalf("KEK broken (%v): called %v, %v", broken, called, err)
				}
				if errors.Is(broken, envelope.ErrRevoked) {
					d.failed, d.class = time.Now().Add(ttl), broken
				}
			default:
				if err != nil || !called {
					t.Fatalf("not held: called %v, %v", called, err)
				}
				if !shut[d.kek] {
					d.expires = time.Now().Add(maxAge)
				}
			}
			if err == nil {
				if p, err := k.Open(d.message, nil); err != nil || string(p) != "plaintext" {
					t.Fatalf("opened %q, %v", p, err)
				}
			}
		case op < 76: // a forgery never opens
			forged := slices.Clone(d.header)
			forged[rnd.IntN(len(forged))] ^= 1 << rnd.IntN(8)
			if _, err := c.OpenKey(t.Context(), forged); err == nil {
				t.Fatal("a forged header opened")
			}
		case op < 82: // pin
			k, err := envelope.OpenHeader(t.Context(), newCopy(keks[d.kek]), d.header)
			if err != nil {
				t.Fatal(err)
			}
			c.Pin(k)
			if len(pins) == 0 || pins[0] != d {
				if len(pins) == 2 && pins[1] != d {
					pins[1].pinned = false
					if held(pins[1]) || !pins[1].expires.IsZero() {
						pins[1].expires = time.Now().Add(maxAge) // ordinary from now on
					}
				}
				if len(pins) > 0 {
					pins = []*dek{d, pins[0]}
				} else {
					pins = []*dek{d}
				}
			}
			d.pinned = true
			if !shut[d.kek] {
				d.expires = time.Now().Add(maxAge)
			}
		case op < 88: // the gate
			i := rnd.IntN(2)
			shut[i] = !shut[i]
			var ids []string
			for i, s := range shut {
				if s {
					ids = append(ids, keks[i].id)
				}
			}
			g.set(ids...)
			// Any miss is enough for the change to reach every entry.
			if _, err := c.OpenKey(t.Context(), stranger); !errors.Is(err, envelope.ErrUnknownKey) {
				t.Fatal(err)
			}
			for _, d := range deks {
				d.failed = time.Time{}
				if shut[d.kek] {
					d.expires = time.Time{}
				}
			}
		case op < 93: // the KEKs
			broken = []error{nil, nil, envelope.ErrUnreachable, envelope.ErrDisabled}[rnd.IntN(4)]
		case op < 98: // time
			time.Sleep(time.Duration(rnd.IntN(1200)) * time.Second / 2)
			synctest.Wait()
		default:
			c.Purge()
			for _, d := range deks {
				d.expires, d.failed = time.Time{}, time.Time{}
			}
		}
	}
}

// anyOf asks one KEK after the other.
type anyOf []*fakeKEK

func (a anyOf) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	for _, k := range a {
		if k.id == w.KeyID {
			return k.Unwrap(ctx, w)
		}
	}
	return nil, envelope.ErrUnknownKey
}

// TestRace lets everything happen at once. Whatever opens must open rightly; run it
// with -race.
func TestRace(t *testing.T) {
	kek, g := newFakeKEK("k"), newGate()
	c := newCache(t, kek, cache.Options{Entries: 8, Gate: g, MaxAge: time.Millisecond})
	opener := envelope.NewOpenerFrom(c)
	var deks []sealed
	for range 24 {
		deks = append(deks, kek.seal(t))
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		rnd := rand.New(rand.NewPCG(uint64(worker), 2))
		wg.Go(func() {
			for range 400 {
				d := deks[rnd.IntN(len(deks))]
				switch op := rnd.IntN(100); {
				case op < 1:
					c.Purge()
				case op < 3:
					g.set("other")
				case op < 5:
					pin(t, c, kek, d)
				case op < 6:
					c.Stats()
				default:
					p, err := opener.OpenDetached(t.Context(), d.header, d.message, nil)
					if err != nil && !errors.Is(err, envelope.ErrInvalid) || err == nil && string(p) != "plaintext" {
						t.Errorf("opened %q, %v", p, err)
					}
				}
			}
		})
	}
	wg.Wait()
	if s := c.Stats(); s.Entries > 8+2 {
		t.Errorf("%+v: beyond the bound", s)
	}
}
