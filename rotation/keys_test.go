package rotation_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/internal/bubble"
	"github.com/keyfold/keyfold/rotation"
)

const day = 24 * time.Hour

// Thirty days, seven days and one day ahead, once each, for every key of the ring.
func TestExpiryIsAnnounced(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		log := new(logbook)
		expires := time.Now().Add(40 * day)
		v.expires["1"], v.expires["2"] = expires, expires.Add(1000*day)
		r := newRing(t, two(v.key("a", "2"), v.key("a", "1")), rotation.Options{Logger: log.logger(), ProbeInterval: time.Hour})
		start(t, r)
		warnings := 0
		for _, step := range []struct {
			before time.Duration // the expiry
			warn   bool
		}{
			{39 * day, false}, {30*day + time.Hour, false}, {29 * day, true}, {8 * day, false}, {6 * day, true},
			{2 * day, false}, {20 * time.Hour, true}, {time.Hour, false}, {-5 * day, false},
		} {
			time.Sleep(time.Until(expires.Add(-step.before)))
			synctest.Wait()
			if step.warn {
				warnings++
			}
			if n := log.count("level=WARN", "expires soon", "vault/a/1"); n != warnings {
				t.Fatalf("%v before the expiry: %d warnings, want %d:\n%s", step.before, n, warnings, log)
			}
		}
		if n := log.count("expires soon", "vault/a/2"); n != 0 {
			t.Errorf("%d warnings about a key with years to go", n)
		}

		// A new date starts anew, at its own threshold.
		v.set(func(v *vault) { v.expires["1"] = time.Now().Add(3 * day) })
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n := log.count("expires soon", "vault/a/1"); n != warnings+1 {
			t.Errorf("%d warnings after the date moved, want %d", n, warnings+1)
		}
	})
}

func TestKeysShowAttributes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		v.latest["b"] = "9"
		expires := time.Now().Add(300 * day)
		v.expires["1"] = expires
		log := new(logbook)
		r := newRing(t, rotation.Config{
			Current:  rotation.Key{KEK: v.key("a", "1"), Epoch: 4},
			Previous: &rotation.Key{KEK: &own{id: "x"}},
			Read:     []rotation.Key{{KEK: v.anyVersion("b")}},
		}, rotation.Options{Logger: log.logger()})
		start(t, r)
		synctest.Wait()
		keys := r.Keys()
		if k := keys[0]; k.ID != keyID("a", "1", 4) || k.Epoch != 4 || k.Info.Name != "vault/a/1" || k.Info.Version != "1" ||
			!k.Info.Enabled || !k.Info.Expires.Equal(expires) || k.AttributesErr != nil || k.Health.State != rotation.Healthy {
			t.Errorf("current %+v", k)
		}
		if k := keys[1]; k.ID != "" || k.Info != (envelope.KeyInfo{}) || k.AttributesErr != nil || k.Health.State != rotation.Unknown {
			t.Errorf("previous %+v", k)
		}
		if k := keys[2]; k.ID != "" || k.Info.Name != "vault/b/9" {
			t.Errorf("read %+v", k)
		}

		// Without the permission: visible, logged once, and without any other effect.
		v.set(func(v *vault) { v.describe = envelope.ErrForbidden })
		time.Sleep(time.Hour)
		synctest.Wait()
		k := r.Keys()[0]
		wantClass(t, k.AttributesErr, envelope.ErrForbidden)
		if k.Info.Name != "vault/a/1" {
			t.Errorf("what was known is forgotten: %+v", k.Info)
		}
		wantState(t, r.Health(), rotation.Healthy)
		if n := log.count("attributes cannot be read", "vault/a/1"); n != 1 {
			t.Errorf("logged %d times", n)
		}
		v.set(func(v *vault) { v.describe = nil })
		time.Sleep(5*time.Minute + 15*time.Second)
		synctest.Wait()
		if err := r.Keys()[0].AttributesErr; err != nil {
			t.Errorf("still %v after the permission was given", err)
		}
	})
}
