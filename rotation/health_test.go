package rotation_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/internal/bubble"
	"github.com/keyfold/keyfold/rotation"
)

// One key, probed by hand: what each answer, some seconds after the one before,
// makes of its health.
func TestHealth(t *testing.T) {
	type answer struct {
		after        time.Duration
		wrap, unwrap error
		want         rotation.State
	}
	const s = time.Second
	both := func(after time.Duration, err error, want rotation.State) answer { return answer{after, err, err, want} }
	ok := both(s, nil, rotation.Healthy)
	for name, answers := range map[string][]answer{
		"works":                           {ok, ok},
		"unreachable from the start":      {both(s, envelope.ErrUnreachable, rotation.Unknown), both(s, envelope.ErrUnreachable, rotation.Unknown), ok},
		"unclassified is unreachable":     {both(s, errors.New("dial"), rotation.Unknown)},
		"throttled from the start":        {both(s, envelope.ErrThrottled, rotation.Unavailable), ok},
		"outage":                          {ok, both(s, envelope.ErrUnreachable, rotation.Unavailable), both(time.Hour, envelope.ErrUnreachable, rotation.Unavailable), ok},
		"throttled":                       {ok, both(s, envelope.ErrThrottled, rotation.Unavailable), both(time.Hour, envelope.ErrThrottled, rotation.Unavailable), ok},
		"not authenticated":               {ok, both(s, envelope.ErrUnauthenticated, rotation.Unavailable), both(time.Hour, envelope.ErrUnauthenticated, rotation.Unavailable), ok},
		"disabled, confirmed, healed":     {ok, both(s, envelope.ErrDisabled, rotation.Unavailable), both(3*s, envelope.ErrDisabled, rotation.Revoked), ok},
		"confirmed too soon":              {ok, both(s, envelope.ErrDisabled, rotation.Unavailable), both(s, envelope.ErrDisabled, rotation.Unavailable), both(2*s, envelope.ErrDeleted, rotation.Revoked)},
		"disabled once":                   {ok, both(s, envelope.ErrDisabled, rotation.Unavailable), ok, both(10*s, envelope.ErrDisabled, rotation.Unavailable)},
		"deleted at the very start":       {both(s, envelope.ErrDeleted, rotation.Unavailable), both(3*s, envelope.ErrDeleted, rotation.Revoked), ok},
		"an outage confirms nothing":      {ok, both(s, envelope.ErrDisabled, rotation.Unavailable), both(5*s, envelope.ErrUnreachable, rotation.Unavailable), both(s, envelope.ErrDisabled, rotation.Revoked)},
		"revoked outlasts an outage":      {ok, both(s, envelope.ErrDisabled, rotation.Unavailable), both(3*s, envelope.ErrDisabled, rotation.Revoked), both(s, envelope.ErrUnreachable, rotation.Revoked), both(s, envelope.ErrForbidden, rotation.Revoked), ok},
		"forbidden for a while":           {ok, both(s, envelope.ErrForbidden, rotation.Unavailable), both(29*s, envelope.ErrForbidden, rotation.Unavailable), ok, both(29*s, envelope.ErrForbidden, rotation.Unavailable)},
		"forbidden for good":              {ok, both(s, envelope.ErrForbidden, rotation.Unavailable), both(30*s, envelope.ErrForbidden, rotation.Revoked), ok},
		"forbidden from the start":        {both(s, envelope.ErrForbidden, rotation.Unavailable), both(time.Hour, envelope.ErrForbidden, rotation.Unavailable), ok},
		"only unwrapping forbidden":       {ok, {s, nil, envelope.ErrForbidden, rotation.Unavailable}, {30 * s, nil, envelope.ErrForbidden, rotation.Revoked}},
		"expired":                         {ok, {s, envelope.ErrExpired, nil, rotation.Expired}, {time.Hour, envelope.ErrExpired, nil, rotation.Expired}, ok},
		"expired at the very start":       {{s, envelope.ErrExpired, nil, rotation.Expired}, ok},
		"not yet valid":                   {{s, envelope.ErrNotYetValid, nil, rotation.Expired}, ok},
		"expired, then disabled":          {ok, {s, envelope.ErrExpired, nil, rotation.Expired}, {s, envelope.ErrExpired, envelope.ErrDisabled, rotation.Unavailable}, {3 * s, envelope.ErrExpired, envelope.ErrDisabled, rotation.Revoked}, {s, envelope.ErrExpired, nil, rotation.Expired}},
		"expired, then out of reach":      {ok, {s, envelope.ErrExpired, envelope.ErrUnreachable, rotation.Unavailable}},
		"expired, then forbidden":         {{s, envelope.ErrExpired, nil, rotation.Expired}, both(s, envelope.ErrForbidden, rotation.Unavailable), both(30*s, envelope.ErrForbidden, rotation.Revoked)},
		"forbidden, then disabled":        {ok, both(s, envelope.ErrForbidden, rotation.Unavailable), both(5*s, envelope.ErrDisabled, rotation.Unavailable), both(3*s, envelope.ErrDisabled, rotation.Revoked)},
		"a vault that returns other keys": {ok, {s, nil, envelope.ErrCorrupt, rotation.Unavailable}, {time.Hour, nil, envelope.ErrCorrupt, rotation.Unavailable}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				v := newVault()
				log := new(logbook)
				r := newRing(t, one(v.key("a", "1")), rotation.Options{Logger: log.logger()})
				wantState(t, r.Health(), rotation.Unknown)
				var last rotation.Health
				var transitions int
				for i, a := range answers {
					time.Sleep(a.after)
					v.set(func(v *vault) { v.wrap["1"], v.unwrap["1"] = a.wrap, a.unwrap })
					changed, generation := r.Changed(), r.Generation()
					h := r.Probe(t.Context())
					if h.State != a.want || (h.Err == nil) != (a.want == rotation.Healthy) {
						t.Fatalf("answer %d: %v (%v), want %v", i, h.State, h.Err, a.want)
					}
					moved := h.State != last.State
					if moved {
						transitions++
						last.Since = time.Now()
					}
					if a.want == rotation.Healthy || a.want == rotation.Expired {
						last.LastOK = time.Now()
					}
					if !h.Since.Equal(last.Since) || !h.LastOK.Equal(last.LastOK) {
						t.Fatalf("answer %d: since %v, last ok %v; want %v, %v", i, h.Since, h.LastOK, last.Since, last.LastOK)
					}
					select {
					case <-changed:
						if !moved {
							t.Fatalf("answer %d: announced without a change", i)
						}
					default:
						if moved {
							t.Fatalf("answer %d: not announced", i)
						}
					}
					gate := moved && (h.State == rotation.Revoked || last.State == rotation.Revoked)
					if (r.Generation() != generation) != gate || r.Admits(keyID("a", "1", 0)) != (h.State != rotation.Revoked) {
						t.Fatalf("answer %d: the gate does not follow", i)
					}
					last.State = h.State
				}
				if n := log.count("from="); n != transitions {
					t.Errorf("%d transitions logged, want %d:\n%s", n, transitions, log)
				}
			})
		})
	}
}

// Started under an expired key, a ring has never wrapped: what it opens tells it
// later whether the key still reads. What does not open tells it nothing.
func TestExpiredFromTheStart(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		r := newRing(t, two(v.key("a", "2"), v.key("a", "1")), rotation.Options{})
		own, other := mustWrap(t, v.key("a", "2")), mustWrap(t, v.key("a", "3"))
		v.set(func(v *vault) { v.wrap["2"] = envelope.ErrExpired })
		wantState(t, r.Probe(t.Context()), rotation.Expired)

		mustUnwrap(t, r, other)
		forged := own
		forged.Blob = []byte("forged")
		_, err := r.Unwrap(t.Context(), forged)
		wantClass(t, err, envelope.ErrCorrupt)
		v.set(func(v *vault) { v.unwrap["3"] = envelope.ErrDisabled })
		wantState(t, r.Probe(t.Context()), rotation.Expired)

		mustUnwrap(t, r, own)
		clear(own.Blob) // it is the caller's
		wantState(t, r.Probe(t.Context()), rotation.Expired)
		v.set(func(v *vault) { v.unwrap["2"] = envelope.ErrDisabled })
		wantState(t, r.Probe(t.Context()), rotation.Unavailable)
		time.Sleep(3 * time.Second)
		wantState(t, r.Probe(t.Context()), rotation.Revoked)
	})
}

// A revoked version is refused here, under any epoch and in any role; other versions
// of the same key are left to the vault.
func TestRevokedIsRefusedLocally(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		r := newRing(t, rotation.Config{
			Current: rotation.Key{KEK: v.key("a", "2"), Epoch: 1}, Previous: &rotation.Key{KEK: v.key("a", "1")},
		}, rotation.Options{})
		revoked, other := mustWrap(t, r), mustWrap(t, v.key("a", "1"))
		r.Probe(t.Context())
		v.refuse("2", envelope.ErrDisabled)
		r.Probe(t.Context())
		time.Sleep(3 * time.Second)
		wantState(t, r.Probe(t.Context()), rotation.Revoked)

		check := func(r *rotation.Ring) {
			t.Helper()
			before := v.calls()
			for _, epoch := range []uint32{0, 1, 7} {
				revoked.KeyID = keyID("a", "2", epoch)
				_, err := r.Unwrap(t.Context(), revoked)
				wantClass(t, err, envelope.ErrDisabled)
				if r.Admits(revoked.KeyID) {
					t.Errorf("%s is admitted", revoked.KeyID)
				}
			}
			if v.calls() != before {
				t.Error("the vault was asked")
			}
			mustUnwrap(t, r, other)
		}
		check(r)
		before := v.calls()
		_, err := r.Wrap(t.Context(), dek)
		wantClass(t, err, envelope.ErrDisabled)
		_, err = r.Writer().KEK.Wrap(t.Context(), dek)
		wantClass(t, err, envelope.ErrDisabled)
		if v.calls() != before {
			t.Error("the vault was asked to wrap")
		}

		// A new current key: writing goes on, the revoked one stays refused until it is
		// given back, which Run notices although it does not write any more.
		if err := r.Reload(two(v.key("a", "3"), v.key("a", "2"))); err != nil {
			t.Fatal(err)
		}
		mustUnwrap(t, r, mustWrap(t, r))
		check(r)
		start(t, r)
		v.refuse("2", nil)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		mustUnwrap(t, r, revoked)
		wantState(t, r.Health(), rotation.Healthy)
	})
}

// From any instant between two probes: refused within the bound, and healed within
// one interval.
func TestRevocationBound(t *testing.T) {
	for name, class := range map[string]error{
		"disabled": envelope.ErrDisabled, "deleted": envelope.ErrDeleted, "forbidden": envelope.ErrForbidden,
	} {
		for _, phase := range []time.Duration{0, time.Millisecond, 7 * time.Second, 13*time.Second + 600*time.Millisecond} {
			t.Run(name, func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					v := newVault()
					r := newRing(t, one(v.key("a", "1")), rotation.Options{})
					if b := r.RevocationBound(); b > time.Minute {
						t.Fatalf("the bound is %v", b)
					}
					start(t, r)
					time.Sleep(5*time.Minute + phase)
					wantState(t, r.Health(), rotation.Healthy)
					w := mustWrap(t, r)

					v.refuse("1", class)
					time.Sleep(r.RevocationBound())
					synctest.Wait()
					wantState(t, r.Health(), rotation.Revoked)
					_, err := r.Unwrap(t.Context(), w)
					wantClass(t, err, envelope.ErrRevoked)

					v.refuse("1", nil)
					time.Sleep(15 * time.Second)
					synctest.Wait()
					wantState(t, r.Health(), rotation.Healthy)
					mustUnwrap(t, r, w)
				})
			})
		}
	}
}

// slow answers after the key was looked at, as late as a probe still accepts it.
type slow struct{ envelope.KEK }

const answerTime = 4490 * time.Millisecond

func (k slow) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	dek, err := k.KEK.Unwrap(ctx, w)
	time.Sleep(answerTime)
	return dek, err
}

func (k slow) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	w, err := k.KEK.Wrap(ctx, dek)
	if err != nil {
		time.Sleep(answerTime)
	}
	return w, err
}

// The bound counts from the vault's view of the key, not from its answer.
func TestRevocationBoundWithASlowVault(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		r := newRing(t, one(slow{v.key("a", "1")}), rotation.Options{})
		start(t, r)
		for i := range 80 {
			time.Sleep(time.Minute + time.Duration(i)*250*time.Millisecond)
			wantState(t, r.Health(), rotation.Healthy)
			v.refuse("1", envelope.ErrForbidden)
			time.Sleep(r.RevocationBound())
			synctest.Wait()
			wantState(t, r.Health(), rotation.Revoked)
			v.refuse("1", nil)
		}
	})
}

func TestOutageIsRiddenOut(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		r := newRing(t, one(v.key("a", "1")), rotation.Options{})
		start(t, r)
		time.Sleep(time.Minute)
		v.set(func(v *vault) { v.outage = envelope.ErrUnreachable })
		began := time.Now()
		time.Sleep(11 * time.Hour)
		synctest.Wait()
		h := r.Health()
		wantState(t, h, rotation.Unavailable)
		wantClass(t, h.Err, envelope.ErrUnreachable)
		if h.LastOK.After(began) || began.Sub(h.LastOK) > 15*time.Second {
			t.Errorf("last ok %v, the outage began at %v", h.LastOK, began)
		}
		if !r.Admits(keyID("a", "1", 0)) {
			t.Error("an outage took the key away")
		}
		v.set(func(v *vault) { v.outage = nil })
		time.Sleep(15 * time.Second)
		synctest.Wait()
		wantState(t, r.Health(), rotation.Healthy)
	})
}

// A vault that answers nothing at all cannot hold up the probe for longer than its
// time-out, and an outage at the start ends within seconds of the vault's return.
func TestHangingVault(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		v.hang = true
		r := newRing(t, one(v.key("a", "1")), rotation.Options{})
		began := time.Now()
		h := r.Probe(t.Context())
		wantState(t, h, rotation.Unknown)
		wantClass(t, h.Err, envelope.ErrUnreachable)
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("the probe took %v", took)
		}
		start(t, r)
		time.Sleep(time.Hour)
		v.set(func(v *vault) { v.hang = false })
		time.Sleep(9 * time.Second)
		synctest.Wait()
		wantState(t, r.Health(), rotation.Healthy)
	})
}

func TestVaultThatReturnsOtherKeys(t *testing.T) {
	v := newVault()
	r := newRing(t, one(forgetful{v.key("a", "1")}), rotation.Options{})
	h := r.Probe(t.Context())
	wantState(t, h, rotation.Unavailable)
	wantClass(t, h.Err, envelope.ErrCorrupt)
}

// Whatever stands in stored data, health does not move.
func TestStoredDataNeverChangesHealth(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		r := newRing(t, two(v.key("a", "2"), v.key("a", "1")), rotation.Options{})
		start(t, r)
		time.Sleep(time.Minute)
		before, generation := r.Health(), r.Generation()
		v.refuse("1", envelope.ErrDisabled)
		v.refuse("77", envelope.ErrDeleted)
		for range 30 {
			for _, id := range []string{keyID("a", "77", 0), keyID("a", "1", 0), keyID("b", "1", 0), "x", keyID("a", "2", 0)} {
				if _, err := r.Unwrap(t.Context(), envelope.WrappedKey{KeyID: id, Algorithm: "fake", Blob: []byte("forged")}); err == nil {
					t.Fatalf("%s opened", id)
				}
			}
			time.Sleep(10 * time.Second)
		}
		after := r.Health()
		if after.State != rotation.Healthy || after.Since != before.Since || r.Generation() != generation {
			t.Errorf("health was %+v and is %+v", before, after)
		}
	})
}

// The key that will write is rehearsed, so that trouble shows before its time, and
// does not touch the health of the one that writes.
func TestTheComingWriterIsRehearsed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		v.refuse("2", envelope.ErrForbidden)
		log := new(logbook)
		cfg := two(v.key("a", "2"), v.key("a", "1"))
		cfg.ActivateAt = time.Now().Add(24 * time.Hour)
		r := newRing(t, cfg, rotation.Options{Logger: log.logger()})
		start(t, r)
		time.Sleep(time.Hour)
		synctest.Wait()
		wantState(t, r.Health(), rotation.Healthy)
		wantState(t, r.Keys()[0].Health, rotation.Unavailable)
		if n := log.count("level=WARN", "cannot be used", keyID("a", "2", 0)); n != 1 {
			t.Errorf("warned %d times:\n%s", n, log)
		}
	})
}

func TestReloadIsProbedAtOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		r := newRing(t, one(v.key("a", "1")), rotation.Options{})
		start(t, r)
		time.Sleep(time.Second)
		if err := r.Reload(two(v.key("a", "2"), v.key("a", "1"))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantState(t, r.Health(), rotation.Healthy)
	})
}

// Two dozen probes a few minutes long: the pace stays within what vaults allow.
func TestPace(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		r := newRing(t, one(v.key("a", "1")), rotation.Options{})
		start(t, r)
		for name, class := range map[string]error{"healthy": nil, "throttled": envelope.ErrThrottled, "unauthenticated": envelope.ErrUnauthenticated} {
			v.set(func(v *vault) { v.outage = class })
			time.Sleep(time.Minute)
			before := v.calls()
			time.Sleep(10 * time.Minute)
			if n := v.calls() - before; n < 35 || n > 100 {
				t.Errorf("%s: %d calls in ten minutes", name, n)
			}
		}
	})
}

func TestStateNames(t *testing.T) {
	for s, want := range map[rotation.State]string{
		rotation.Unknown: "unknown", rotation.Healthy: "healthy", rotation.Expired: "expired",
		rotation.Unavailable: "unavailable", rotation.Revoked: "revoked", 99: "State(99)",
	} {
		if s.String() != want {
			t.Errorf("%d is %q, want %q", int(s), s, want)
		}
	}
}
