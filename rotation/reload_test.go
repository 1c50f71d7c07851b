package rotation_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/internal/bubble"
	"github.com/keyfold/keyfold/rotation"
)

// Requests go on through any number of reloads, and none fails.
func TestReloadUnderLoad(t *testing.T) {
	v := newVault()
	a, b := v.key("a", "1"), v.key("b", "1")
	r := newRing(t, two(a, b), rotation.Options{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var done atomic.Int64
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				w, err := r.Wrap(t.Context(), dek)
				if err == nil {
					_, err = r.Unwrap(t.Context(), w)
				}
				if err != nil || !r.Admits(w.KeyID) {
					t.Errorf("%s: %v", w.KeyID, err)
					return
				}
				r.Keys()
				r.Health()
				done.Add(1)
			}
		})
	}
	for i := 0; i < 300 || done.Load() < 100 && !t.Failed(); i++ {
		cfg := two(a, b)
		if i%2 == 0 {
			cfg = two(b, a)
		}
		if err := r.Reload(cfg); err != nil {
			t.Error(err)
		}
		r.Probe(t.Context())
	}
	close(stop)
	wg.Wait()
}

func TestBadReloadKeepsTheOldConfiguration(t *testing.T) {
	v := newVault()
	r := newRing(t, one(v.key("a", "1")), rotation.Options{})
	generation, changed := r.Generation(), r.Changed()
	for _, cfg := range []rotation.Config{
		{},
		two(v.key("a", "2"), v.key("a", "2")),
		{Current: rotation.Key{KEK: &identifiedOwn{own{id: "x"}}, Epoch: 1}, Force: true},
	} {
		wantClass(t, r.Reload(cfg), envelope.ErrInvalid)
	}
	if r.Writer().KeyID != keyID("a", "1", 0) || r.Generation() != generation {
		t.Errorf("writer %s, generation %d after bad reloads", r.Writer().KeyID, r.Generation())
	}
	select {
	case <-changed:
		t.Error("a bad reload was announced")
	default:
	}
	if err := r.Reload(one(v.key("a", "2"))); err != nil {
		t.Fatal(err)
	}
	if r.Generation() == generation {
		t.Error("a reload did not change the generation")
	}
	select {
	case <-changed:
	default:
		t.Error("a reload was not announced")
	}
}

func TestDropGuard(t *testing.T) {
	v := newVault()
	a1, a2, b := v.key("a", "1"), v.key("a", "2"), v.key("b", "1")
	use := func(t *testing.T, r *rotation.Ring) { mustUnwrap(t, r, mustWrap(t, r)) }

	t.Run("a key never used may go", func(t *testing.T) {
		r := newRing(t, one(a1), rotation.Options{})
		r.Probe(t.Context())
		if err := r.Reload(one(b)); err != nil {
			t.Error(err)
		}
	})
	t.Run("a used key may not, unless forced", func(t *testing.T) {
		r := newRing(t, one(a1), rotation.Options{})
		use(t, r)
		err := r.Reload(one(b))
		wantClass(t, err, envelope.ErrInvalid)
		if typed, ok := errors.AsType[*envelope.Error](err); !ok || typed.Remedy == "" || typed.Key == "" {
			t.Errorf("no key or remedy in %v", err)
		}
		use(t, r)
		forced := one(b)
		forced.Force = true
		for _, cfg := range []rotation.Config{two(b, a2), {Current: rotation.Key{KEK: b}, Read: []rotation.Key{{KEK: v.anyVersion("a")}}}, forced, one(b)} {
			if err := r.Reload(cfg); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("use is remembered across reloads", func(t *testing.T) {
		r := newRing(t, one(a1), rotation.Options{})
		use(t, r)
		for _, cfg := range []rotation.Config{one(a2), two(b, a2), two(b, a1)} {
			if err := r.Reload(cfg); err != nil {
				t.Fatal(err)
			}
		}
		wantClass(t, r.Reload(one(b)), envelope.ErrInvalid)
	})
	t.Run("reading is use", func(t *testing.T) {
		r := newRing(t, two(b, v.anyVersion("a")), rotation.Options{})
		mustUnwrap(t, r, mustWrap(t, a1))
		wantClass(t, r.Reload(one(b)), envelope.ErrInvalid)
	})
	t.Run("back ends with ids of their own", func(t *testing.T) {
		silent := &own{id: "x"} // does not tell its id
		r := newRing(t, two(b, silent), rotation.Options{})
		mustUnwrap(t, r, mustWrap(t, silent))
		wantClass(t, r.Reload(one(b)), envelope.ErrInvalid)
		wantClass(t, r.Reload(two(b, &own{id: "x"})), envelope.ErrInvalid)
		if err := r.Reload(one(silent)); err != nil {
			t.Fatal(err)
		}
		use(t, r) // now its id is known
		if err := r.Reload(two(b, silent)); err != nil {
			t.Fatal(err)
		}
		wantClass(t, r.Reload(one(b)), envelope.ErrInvalid)
		if err := r.Reload(two(b, &identifiedOwn{own{id: "x"}})); err != nil {
			t.Fatal(err)
		}
	})
}

// A back end with ids of its own that moves on is still the key that it was.
func TestDropGuardFollowsIDsThatMoveOn(t *testing.T) {
	v := newVault()
	k := &own{id: "x"}
	r := newRing(t, one(k), rotation.Options{})
	for _, id := range []string{"x", "y", "z"} {
		k.id = id
		mustUnwrap(t, r, mustWrap(t, r))
		if err := r.Reload(one(k)); err != nil {
			t.Fatal(err)
		}
	}
	wantClass(t, r.Reload(one(v.key("b", "1"))), envelope.ErrInvalid)
}

// What is known of a key stays known when a reload makes it anew.
func TestReloadKeepsHistory(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		r := newRing(t, one(v.key("a", "1")), rotation.Options{})
		start(t, r)
		mustUnwrap(t, r, mustWrap(t, r))
		time.Sleep(time.Minute)
		synctest.Wait()
		before := r.Keys()[0]
		v.set(func(v *vault) {
			v.describe = envelope.ErrForbidden
			v.wrap["1"], v.unwrap["1"] = envelope.ErrExpired, envelope.ErrDisabled
		})
		if err := r.Reload(two(v.key("a", "2"), v.key("a", "1"))); err != nil {
			t.Fatal(err)
		}
		after := r.Keys()[1]
		if after.Role != rotation.RolePrevious || after.Health != before.Health || after.Info != before.Info ||
			after.LastWrap != before.LastWrap || after.LastUnwrap != before.LastUnwrap {
			t.Errorf("before %+v, after %+v", before, after)
		}
		// What it opened before tells whether an expired key still reads.
		if err := r.Reload(one(v.key("a", "1"))); err != nil {
			t.Fatal(err)
		}
		h := r.Probe(t.Context())
		wantState(t, h, rotation.Unavailable)
		wantClass(t, h.Err, envelope.ErrDisabled)
	})
}

// However often it is reloaded, a ring notices within the bound that its key was
// taken away.
func TestReloadsDoNotPutARevocationOff(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		r := newRing(t, one(v.key("a", "1")), rotation.Options{})
		start(t, r)
		time.Sleep(time.Minute)
		v.refuse("1", envelope.ErrForbidden)
		for end := time.Now().Add(r.RevocationBound()); time.Now().Before(end); time.Sleep(10 * time.Second) {
			if err := r.Reload(one(v.key("a", "1"))); err != nil {
				t.Fatal(err)
			}
		}
		wantState(t, r.Health(), rotation.Revoked)
	})
}

// A refusal of the time before a key ceased to write confirms nothing once it writes
// again.
func TestRefusalIsForgottenWithTheRole(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		a, b := v.key("a", "1"), v.key("b", "1")
		r := newRing(t, one(a), rotation.Options{})
		r.Probe(t.Context())
		v.refuse("1", envelope.ErrDisabled)
		wantState(t, r.Probe(t.Context()), rotation.Unavailable)
		for _, cfg := range []rotation.Config{two(b, a), two(a, b)} {
			time.Sleep(time.Hour)
			if err := r.Reload(cfg); err != nil {
				t.Fatal(err)
			}
		}
		wantState(t, r.Probe(t.Context()), rotation.Unavailable)
	})
}

// A probe of the old configuration that ends late neither heals nor condemns the
// key of the new one, even if it is the same key behind another client.
func TestLateProbeOfTheOldConfiguration(t *testing.T) {
	for name, old := range map[string]error{"good": nil, "bad": envelope.ErrUnreachable} {
		t.Run(name, func(t *testing.T) {
			v, w := newVault(), newVault()
			r := newRing(t, one(v.key("a", "1")), rotation.Options{})
			v.outage = old
			v.beforeWrap = func() {
				v.set(func(v *vault) { v.beforeWrap = nil })
				if err := r.Reload(one(w.key("a", "1"))); err != nil {
					t.Error(err)
				}
			}
			wantState(t, r.Probe(t.Context()), rotation.Unknown)
			if h := r.Health(); h.Err != nil || !h.LastOK.IsZero() {
				t.Errorf("the new configuration's health is %+v", h)
			}
			wantState(t, r.Probe(t.Context()), rotation.Healthy)
		})
	}
}

func TestCallerEndsAProbe(t *testing.T) {
	v := newVault()
	v.hang = true
	r := newRing(t, one(v.key("a", "1")), rotation.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if h := r.Probe(ctx); h.State != rotation.Unknown || h.Err != nil {
		t.Errorf("a probe that its caller ended was recorded: %+v", h)
	}
}
