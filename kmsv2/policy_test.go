package kmsv2_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
	"github.com/keyfold/keyfold/kmsv2"
	"github.com/keyfold/keyfold/rotation"
)

func TestStatusWaitsForTheVault(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		ref := v.key("kek")
		must(t, hsmsim.WriteFaults(v.dir, hsmsim.Faults{Latency: 2 * time.Second}))
		p := start(t, setup{ring: v.current(ref)})
		began := time.Now()
		if id := p.status(); id != v.id(ref) {
			t.Errorf("Status = %q", id)
		}
		if took := time.Since(began); took < 2*time.Second {
			t.Errorf("Status answered %v before the vault", 2*time.Second-took)
		}
	})
}

func TestStatusFailsWithoutAnAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		ref := v.key("kek")
		v.outage(true)
		p := start(t, setup{ring: v.current(ref)})
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_, err := p.Status(ctx)
		wantClass(t, err, envelope.ErrUnreachable)
		if ctx.Err() != nil {
			t.Error("the error comes too late for the caller to see it")
		}
		if code := kmsv2.Code(err); code != codes.Unavailable {
			t.Errorf("code %v", code)
		}
		if err := p.Healthz(context.Background()); err == nil {
			t.Error("healthy without a key")
		}
		if _, err := p.Encrypt(ctx, "", []byte("x")); err == nil {
			t.Error("Encrypt works without a key")
		}
		// Without a deadline the wait is bounded all the same.
		_, err = p.Status(context.Background())
		wantClass(t, err, envelope.ErrUnreachable)
		// And it recovers by itself.
		v.outage(false)
		pass(time.Minute)
		p.status()
	})
}

func TestStatusWithoutRun(t *testing.T) {
	ring, err := rotation.New(oneKey(t), rotation.Options{})
	must(t, err)
	svc, err := kmsv2.New(ring, kmsv2.Options{})
	must(t, err)
	_, err = svc.Status(within(t, 50*time.Millisecond))
	wantClass(t, err, envelope.ErrUnreachable)
	if !strings.Contains(err.Error(), "Run") {
		t.Errorf("%q does not tell what is missing", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := svc.Status(ctx); kmsv2.Code(err) != codes.Canceled {
		t.Errorf("a cancelled wait: %v", err)
	}
}

// What waiting cannot help is reported at once.
func TestStatusAtBootReportsADefiniteFailureAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		ref := v.key("kek")
		v.enable(ref, false)
		p := start(t, setup{ring: v.current(ref)})
		synctest.Wait()
		began := time.Now()
		_, err := p.Status(context.Background())
		wantClass(t, err, envelope.ErrDisabled)
		if kmsv2.Code(err) != codes.FailedPrecondition || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		v.enable(ref, true)
		pass(time.Minute)
		p.status()
	})
}

func TestOutage(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		ref := v.key("kek")
		p := start(t, setup{ring: v.current(ref), options: kmsv2.Options{OutageGrace: time.Hour}})
		id := p.status()
		r := p.encrypt("before")
		pass(time.Minute)

		v.outage(true)
		pass(59 * time.Minute)
		if p.ring.Health().State != rotation.Unavailable {
			t.Fatalf("health %+v", p.ring.Health())
		}
		if got := p.status(); got != id {
			t.Errorf("the key id changed to %q in an outage", got)
		}
		p.opens(p.encrypt("during"), "during")
		p.opens(r, "before")

		pass(2 * time.Minute)
		for name, err := range map[string]error{
			"status":  second(p.Status(context.Background())),
			"encrypt": second(p.Encrypt(context.Background(), "", []byte("x"))),
			"decrypt": second(p.Decrypt(context.Background(), "", request(r))),
			"seal":    second(p.Seal(context.Background(), testDomain, []byte("x"))),
			"open":    second(p.Open(context.Background(), testDomain, []byte("x"))),
			"healthz": p.Healthz(context.Background()),
		} {
			if kmsv2.Code(err) != codes.Unavailable {
				t.Errorf("%s after the grace: %v", name, err)
			}
		}
		if s := p.Snapshot(); s.Class != "unreachable" || s.Health.State != "unavailable" {
			t.Errorf("snapshot %+v", s)
		}

		v.outage(false)
		pass(time.Minute)
		if got := p.status(); got != id {
			t.Errorf("the key id changed to %q over an outage", got)
		}
		p.opens(r, "before")
	})
}

func TestRevokedAndHealed(t *testing.T) {
	for _, how := range []struct {
		name       string
		take, give func(v *vault, ref hsmsim.Ref)
		class      error
	}{
		{"disabled",
			func(v *vault, ref hsmsim.Ref) { v.enable(ref, false) },
			func(v *vault, ref hsmsim.Ref) { v.enable(ref, true) }, envelope.ErrDisabled},
		{"deleted",
			func(v *vault, ref hsmsim.Ref) { must(v.t, v.hsm.Delete(context.Background(), ref.Name)) },
			func(v *vault, ref hsmsim.Ref) { must(v.t, v.hsm.Recover(context.Background(), ref.Name)) }, envelope.ErrDeleted},
	} {
		t.Run(how.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				v := newVault(t)
				old, other := v.key("kek"), v.key("other")
				config := v.current(old)
				config.Read = []rotation.Key{{KEK: v.kek(other)}}
				p := start(t, setup{ring: config, options: kmsv2.Options{StateDir: t.TempDir()}})
				id := p.status()
				r := p.encrypt("under the revoked")
				env, err := p.Seal(context.Background(), testDomain, []byte("object key"))
				must(t, err)
				elsewhere := sealedUnder(t, v.kek(other), v.id(other))

				how.take(v, old)
				pass(p.ring.RevocationBound())
				_, err = p.Status(context.Background())
				wantClass(t, err, envelope.ErrRevoked)
				wantClass(t, err, how.class)
				if code := kmsv2.Code(err); code != codes.FailedPrecondition {
					t.Errorf("Status: code %v", code)
				}
				_, err = p.Encrypt(context.Background(), "", []byte("x"))
				wantClass(t, err, envelope.ErrRevoked)
				_, err = p.Decrypt(context.Background(), "", request(r))
				wantClass(t, err, envelope.ErrRevoked)
				_, err = p.Open(context.Background(), testDomain, env)
				wantClass(t, err, envelope.ErrRevoked)
				wantClass(t, p.Healthz(context.Background()), envelope.ErrRevoked)
				p.opens(elsewhere, "elsewhere")

				how.give(v, old)
				pass(time.Minute)
				if got := p.status(); got != id {
					t.Errorf("healed under %q, not %q", got, id)
				}
				p.opens(r, "under the revoked")
				p.opens(p.encrypt("again"), "again")
			})
		})
	}
}

// An expired key wraps nothing new and goes on being used.
func TestExpired(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		ref := v.key("kek")
		p := start(t, setup{ring: v.current(ref), options: kmsv2.Options{Now: v.clock.Now}})
		id := p.status()
		r := p.encrypt("before")
		v.expire(ref, time.Now().Add(time.Minute))
		// Past the soft age of the DEK too, and the outage grace.
		v.clock.forward(50 * time.Hour)
		pass(time.Minute)
		if p.ring.Health().State != rotation.Expired {
			t.Fatalf("health %+v", p.ring.Health())
		}
		if got := p.status(); got != id {
			t.Errorf("Status = %q", got)
		}
		p.opens(p.encrypt("after"), "after")
		p.opens(r, "before")
	})
}

// A data key is renewed within one key id, without anybody asking.
func TestRenewal(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		p := start(t, setup{ring: v.current(v.key("kek")), options: kmsv2.Options{StateDir: t.TempDir(), Now: v.clock.Now}})
		id := p.status()
		old := p.encrypt("old")
		before := p.Snapshot().DEK
		v.clock.forward(25 * time.Hour)
		pass(time.Minute)
		after := p.Snapshot().DEK
		if before.ID == after.ID || !after.Saved {
			t.Errorf("DEK %+v, then %+v", before, after)
		}
		if got := p.status(); got != id {
			t.Errorf("the key id changed to %q", got)
		}
		if r := p.encrypt("new"); r.KeyID != id {
			t.Errorf("Encrypt under %q", r.KeyID)
		}
		p.opens(old, "old")
	})
}

// Stored data cannot change health, whatever it makes the vault say.
func TestStoredDataNeverChangesHealth(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		previous, current := v.key("kek"), v.key("kek")
		p := start(t, setup{ring: v.rotated(current, previous)})
		p.status()
		stored := sealedUnder(t, v.kek(previous), v.id(previous))
		v.enable(previous, false)
		for range 10 {
			_, err := p.Decrypt(context.Background(), "", request(stored))
			wantClass(t, err, envelope.ErrDisabled)
			pass(5 * time.Second)
			p.status()
		}
		if h := p.ring.Health(); h.State != rotation.Healthy {
			t.Errorf("health %+v", h)
		}
	})
}
