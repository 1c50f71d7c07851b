package rotation_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyfold/keyfold/internal/bubble"
	"github.com/keyfold/keyfold/rotation"
)

func TestActivateAt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		at := time.Now().Add(time.Hour)
		cfg := two(v.key("a", "2"), v.key("a", "1"))
		cfg.ActivateAt = at
		log := new(logbook)
		r := newRing(t, cfg, rotation.Options{Logger: log.logger()})
		start(t, r)

		before := r.Writer()
		if before.Role != rotation.RolePrevious || before.KeyID != keyID("a", "1", 0) {
			t.Fatalf("writer %+v before the time", before)
		}
		time.Sleep(time.Hour - time.Nanosecond)
		synctest.Wait()
		if w := mustWrap(t, r); w.KeyID != keyID("a", "1", 0) {
			t.Fatalf("wrapped under %s just before the time", w.KeyID)
		}
		changed := r.Changed()
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		select {
		case <-changed:
		default:
			t.Error("Changed did not tell of the new writer")
		}
		if w := mustWrap(t, r); w.KeyID != keyID("a", "2", 0) || r.Writer().Role != rotation.RoleCurrent {
			t.Fatalf("wrapped under %s at the time", w.KeyID)
		}
		// The writer taken before stays the key it was.
		if w := mustWrap(t, before.KEK); w.KeyID != before.KeyID {
			t.Errorf("the old Writer now wraps under %s", w.KeyID)
		}
		mustUnwrap(t, before.KEK, mustWrap(t, r))
		// The new writer had been rehearsed, so that its health is known at once.
		wantState(t, r.Health(), rotation.Healthy)
		if n := log.count("takes over"); n != 1 {
			t.Errorf("announced %d times", n)
		}
	})
}

// The clock alone decides; nothing has to run for it.
func TestActivateAtWithoutRun(t *testing.T) {
	v := newVault()
	now := time.Unix(1_800_000_000, 0)
	cfg := two(v.key("a", "2"), v.key("a", "1"))
	cfg.ActivateAt = now.Add(time.Minute)
	r := newRing(t, cfg, rotation.Options{Now: func() time.Time { return now }})
	if w := mustWrap(t, r); w.KeyID != keyID("a", "1", 0) {
		t.Fatalf("wrapped under %s", w.KeyID)
	}
	now = now.Add(time.Minute)
	if w := mustWrap(t, r); w.KeyID != keyID("a", "2", 0) {
		t.Fatalf("wrapped under %s", w.KeyID)
	}
}

// A clock that is set forward brings the change over forward, and Run announces it;
// one that is set back does not bring the key before back, whose id has been
// replaced by then.
func TestActivateAtWhenTheClockIsSet(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		var skew atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
		cfg := two(v.key("a", "2"), v.key("a", "1"))
		cfg.ActivateAt = now().Add(time.Hour)
		r := newRing(t, cfg, rotation.Options{Now: now})
		start(t, r)
		time.Sleep(time.Minute)
		synctest.Wait()
		changed := r.Changed()
		skew.Store(int64(2 * time.Hour))
		time.Sleep(15 * time.Second)
		synctest.Wait()
		select {
		case <-changed:
		default:
			t.Error("Changed did not tell of the new writer")
		}
		skew.Store(0)
		if w := mustWrap(t, r); w.KeyID != keyID("a", "2", 0) || r.Writer().Role != rotation.RoleCurrent {
			t.Errorf("wrapped under %s after the clock was set back", w.KeyID)
		}
	})
}
