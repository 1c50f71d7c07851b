package kmsv2_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
	"github.com/keyfold/keyfold/kmsv2"
	"github.com/keyfold/keyfold/rotation"
)

// heldOver starts a plugin that goes on under first because second cannot wrap.
func heldOver(t *testing.T, o kmsv2.Options) (v *vault, p *plugin, first, second hsmsim.Ref) {
	t.Helper()
	v = newVault(t)
	first, second = v.key("kek"), v.key("other")
	v.enable(second, false)
	p = start(t, setup{ring: v.current(first), options: o})
	p.status()
	must(t, p.ring.Reload(v.rotated(second, first)))
	pass(5 * time.Minute)
	if id := p.status(); id != v.id(first) {
		t.Fatalf("Status = %q", id)
	}
	return v, p, first, second
}

// While its successor cannot wrap, the key before is the one in use, and the ring
// does not probe it: that it was taken away is found, and healed, all the same.
func TestHeldOverKeyRevokedAndHealed(t *testing.T) {
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
				v, p, old, next := heldOver(t, kmsv2.Options{})
				how.take(v, old)
				pass(p.ring.RevocationBound())
				_, err := p.Status(context.Background())
				wantClass(t, err, envelope.ErrRevoked)
				wantClass(t, err, how.class)
				if code := kmsv2.Code(err); code != codes.FailedPrecondition {
					t.Errorf("Status: code %v", code)
				}
				wantClass(t, second(p.Encrypt(context.Background(), "", []byte("x"))), envelope.ErrRevoked)
				wantClass(t, second(p.Seal(context.Background(), testDomain, []byte("x"))), envelope.ErrRevoked)
				wantClass(t, p.Healthz(context.Background()), envelope.ErrRevoked)
				if s := p.Snapshot(); s.Class != "revoked" {
					t.Errorf("snapshot %+v", s)
				}

				how.give(v, old)
				pass(30 * time.Second)
				if id := p.status(); id != v.id(old) {
					t.Errorf("healed under %q", id)
				}
				p.opens(p.encrypt("again"), "again")

				// And a successor that begins to work ends all of it.
				how.take(v, old)
				pass(time.Minute)
				v.enable(next, true)
				pass(time.Minute)
				if id := p.status(); id != v.id(next) {
					t.Errorf("Status = %q once the new key works", id)
				}
				p.opens(p.encrypt("new"), "new")
			})
		})
	}
}

// A start under a key that has expired, by way of a KEK that is not pinned: the ring
// does not learn which version that is, so its refusal speaks of none.
func TestHeldOverAtAStart(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		ref := v.key("kek")
		s := setup{ring: v.current(hsmsim.Ref{Name: "kek"}), options: kmsv2.Options{StateDir: t.TempDir()}}
		p := start(t, s)
		id := p.status()
		p.stop()
		v.expire(ref, time.Now().Add(-time.Hour))
		p = start(t, s)
		if got := p.status(); got != id {
			t.Errorf("Status = %q", got)
		}
		pass(time.Minute)
		p.status()
		v.enable(ref, false)
		pass(p.ring.RevocationBound())
		_, err := p.Status(context.Background())
		wantClass(t, err, envelope.ErrRevoked)
		v.enable(ref, true)
		pass(time.Minute)
		p.status()
	})
}

// A key that was taken away is no outage: what stands under others goes on opening.
func TestHeldOverKeyRevokedIsNoOutage(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v, p, first, _ := heldOver(t, kmsv2.Options{OutageGrace: time.Hour})
		sibling := v.key("kek")
		v.enable(first, false)
		pass(2 * time.Hour)
		_, err := p.Status(context.Background())
		wantClass(t, err, envelope.ErrRevoked)
		p.opens(sealedUnder(t, v.kek(sibling), v.id(sibling)), "elsewhere")
	})
}

// One refusal is not yet a revocation: a vault's front ends do not all learn of a
// change at once. A second one some seconds later is.
func TestHeldOverKeyRefusedOnceAndTwice(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v, p, first, _ := heldOver(t, kmsv2.Options{})
		refusedOnce := func() {
			t.Helper()
			before := v.operations(hsmsim.OpUnwrapKey)
			v.enable(first, false)
			for range 60 {
				pass(time.Second)
				if v.operations(hsmsim.OpUnwrapKey) != before {
					p.status()
					return
				}
			}
			t.Fatal("nobody asked the vault for a minute")
		}
		refusedOnce()
		pass(5 * time.Second)
		_, err := p.Status(context.Background())
		wantClass(t, err, envelope.ErrRevoked)
		v.enable(first, true)
		pass(time.Minute)

		refusedOnce()
		v.enable(first, true)
		for range 60 {
			p.status()
			p.encrypt("x")
			pass(time.Second)
		}
	})
}

// refusing is a KEK whose Unwrap fails as it is told.
type refusing struct {
	envelope.KEK
	with atomic.Pointer[error]
}

func (r *refusing) Underlying() envelope.KEK { return r.KEK }

func (r *refusing) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	if err := r.with.Load(); err != nil {
		return nil, *err
	}
	return r.KEK.Unwrap(ctx, w)
}

// What counts, and for how long it must last, is the ring's own policy for a writer.
func TestHeldOverKeyAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		ref, next := v.key("kek"), v.key("other")
		v.enable(next, false)
		old := &refusing{KEK: v.kek(ref)}
		config := rotation.Config{Current: rotation.Key{KEK: old}}
		p := start(t, setup{ring: config})
		p.status()
		must(t, p.ring.Reload(rotation.Config{Current: rotation.Key{KEK: v.kek(next)}, Previous: &config.Current}))
		pass(time.Minute)

		answer := func(err error) { old.with.Store(&err) }
		answer(envelope.ErrForbidden)
		pass(30 * time.Second)
		p.status() // shorter than a role assignment being replaced
		pass(30 * time.Second)
		_, err := p.Status(context.Background())
		wantClass(t, err, envelope.ErrRevoked)
		wantClass(t, err, envelope.ErrForbidden)

		answer(envelope.ErrUnreachable)
		pass(5 * time.Minute)
		wantClass(t, second(p.Status(context.Background())), envelope.ErrRevoked) // only a good answer ends it
		old.with.Store(nil)
		pass(30 * time.Second)
		p.status()

		// What says nothing about the key takes nothing away.
		answer(envelope.ErrThrottled)
		pass(5 * time.Minute)
		p.status()
	})
}
