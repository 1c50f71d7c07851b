package kmsv2_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
	"github.com/keyfold/keyfold/kmsv2"
	"github.com/keyfold/keyfold/rotation"
)

// sealedUnder makes what another node, or an earlier process, has stored.
func sealedUnder(t *testing.T, kek envelope.KEK, id string) *service.EncryptResponse {
	t.Helper()
	sealer, err := envelope.NewSealer(kek, envelope.SealerOptions{})
	must(t, err)
	defer sealer.Close()
	header, message, err := sealer.SealDetached(context.Background(), []byte("elsewhere"), []byte("keyfold/kms/v2\x00"+id))
	must(t, err)
	return &service.EncryptResponse{Ciphertext: message, KeyID: id, Annotations: map[string][]byte{kmsv2.AnnotationHeader: header}}
}

// keyOf returns the key id that a self-contained envelope was sealed under.
func keyOf(t *testing.T, env []byte) string {
	t.Helper()
	h, _, err := envelope.Inspect(env)
	must(t, err)
	return h.Wraps[0].KeyID
}

// Rule 8: Encrypt uses the id that the last Status reported, and no health check
// changes which that is.
func TestEncryptUsesTheReportedKey(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		first, second := v.key("kek"), v.key("kek")
		p := start(t, setup{ring: v.current(first)})
		if r := p.encrypt("before any Status"); r.KeyID != v.id(first) {
			t.Errorf("Encrypt under %q", r.KeyID)
		}
		p.status()
		old := p.encrypt("old")
		must(t, p.ring.Reload(v.rotated(second, first)))
		pass(2 * time.Second)

		must(t, p.Healthz(context.Background()))
		if s := p.Snapshot(); s.KeyID != v.id(second) || s.ReportedKeyID != v.id(first) {
			t.Fatalf("snapshot: live %q, reported %q", s.KeyID, s.ReportedKeyID)
		}
		between := p.encrypt("between")
		if between.KeyID != v.id(first) {
			t.Errorf("Encrypt under %q, which no Status has reported", between.KeyID)
		}
		// KMS v1 reports nothing, so it does not wait.
		env, err := p.Seal(context.Background(), testDomain, []byte("object key"))
		must(t, err)
		if id := keyOf(t, env); id != v.id(second) {
			t.Errorf("Seal under %q", id)
		}

		if id := p.status(); id != v.id(second) {
			t.Errorf("Status = %q after the rotation", id)
		}
		after := p.encrypt("after")
		if after.KeyID != v.id(second) {
			t.Errorf("Encrypt under %q after Status", after.KeyID)
		}
		p.opens(old, "old")
		p.opens(between, "between")
		p.opens(after, "after")
	})
}

func TestActivateAt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		first, second := v.key("kek"), v.key("kek")
		config := v.rotated(second, first)
		config.ActivateAt = time.Now().Add(time.Hour)
		p := start(t, setup{ring: config})
		pass(time.Hour - time.Second)
		if id := p.status(); id != v.id(first) {
			t.Errorf("Status = %q before the time", id)
		}
		pass(3 * time.Second)
		if id := p.status(); id != v.id(second) {
			t.Errorf("Status = %q after the time", id)
		}
	})
}

// A new current key that cannot wrap is no reason to stop writing.
func TestStaysOnTheOldKeyUntilTheNewOneWraps(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		first, second := v.key("kek"), v.key("kek")
		v.enable(second, false)
		p := start(t, setup{ring: v.current(first), options: kmsv2.Options{OutageGrace: time.Hour}})
		p.status()
		must(t, p.ring.Reload(v.rotated(second, first)))
		pass(10 * time.Minute)
		if p.ring.Health().State != rotation.Revoked {
			t.Fatalf("health of the new key: %+v", p.ring.Health())
		}
		if id := p.status(); id != v.id(first) {
			t.Errorf("Status = %q", id)
		}
		p.opens(p.encrypt("seed"), "seed")
		if !strings.Contains(p.log.String(), "cannot wrap") {
			t.Error("nothing in the log says so")
		}

		// The outage grace counts for the key that is in use.
		pass(2 * time.Hour)
		p.status()
		v.outage(true)
		pass(59 * time.Minute)
		p.status()
		pass(2 * time.Minute)
		_, err := p.Status(context.Background())
		wantClass(t, err, envelope.ErrUnreachable)
		v.outage(false)
		pass(time.Minute)
		p.status()

		v.enable(second, true)
		pass(time.Minute)
		if id := p.status(); id != v.id(second) {
			t.Errorf("Status = %q once the new key works", id)
		}
	})
}

// A KEK whose every wrap has another id gets a new write key now and then, and is not
// wrapped with for ever.
func TestKEKThatNeverRepeatsAKeyID(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		var n atomic.Int64
		kek := wandering{KEK: v.kek(v.key("kek")), id: func() string {
			return fmt.Sprintf("wandering-%d", n.Add(1))
		}}
		p := start(t, setup{ring: rotation.Config{Current: rotation.Key{KEK: &kek}}})
		p.status()
		pass(time.Minute)
		p.opens(p.encrypt("seed"), "seed")
		if wraps := v.operations(hsmsim.OpWrapKey); wraps > 100 {
			t.Errorf("%d wraps in a minute", wraps)
		}
	})
}

// A rotation at the very beginning of an outage: the grace counts from the last
// answer about the old key, not from when its DEK was made.
func TestRotationDuringAnOutage(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		first, second := v.key("kek"), v.key("other")
		p := start(t, setup{ring: v.current(first), options: kmsv2.Options{OutageGrace: time.Hour, Now: v.clock.Now}})
		p.status()
		v.clock.forward(10 * time.Hour)
		pass(time.Minute)
		v.outage(true)
		must(t, p.ring.Reload(v.rotated(second, first)))
		for range 5 {
			if id := p.status(); id != v.id(first) {
				t.Errorf("Status = %q", id)
			}
			pass(11 * time.Minute)
		}
		pass(10 * time.Minute)
		_, err := p.Status(context.Background())
		wantClass(t, err, envelope.ErrUnreachable)
		v.outage(false)
		pass(time.Minute)
		if id := p.status(); id != v.id(second) {
			t.Errorf("Status = %q after the outage", id)
		}
	})
}

// A forced configuration without the key in use: the new one takes over, and
// nobody sees an error in between.
func TestKeyDroppedByForce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		old, other := v.key("kek"), v.key("other")
		p := start(t, setup{ring: v.current(old)})
		p.status()
		r := p.encrypt("seed")
		config := v.current(other)
		config.Force = true
		must(t, p.ring.Reload(config))
		_, err := p.Encrypt(context.Background(), "", []byte("x"))
		wantClass(t, err, envelope.ErrRevoked)
		synctest.Wait()
		if id := p.status(); id != v.id(other) {
			t.Errorf("Status = %q", id)
		}
		_, err = p.Decrypt(context.Background(), "", request(r))
		wantClass(t, err, envelope.ErrUnknownKey)
	})
}

// A KEK without a version: its first wrap decides the id, and no renewal changes it
// under data that is stored beside it.
func TestVersionlessKEK(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		first := v.key("kek")
		versionless := first
		versionless.Version = ""
		p := start(t, setup{ring: v.current(versionless), options: kmsv2.Options{StateDir: t.TempDir(), Now: v.clock.Now}})
		if id := p.status(); id != v.id(first) {
			t.Errorf("Status = %q", id)
		}
		v.key("kek")
		v.clock.forward(30 * time.Hour)
		pass(time.Minute)
		id := p.status()
		r := p.encrypt("seed")
		h, _, err := envelope.Inspect(r.Annotations[kmsv2.AnnotationHeader])
		must(t, err)
		if r.KeyID != id || h.Wraps[0].KeyID != id {
			t.Errorf("Status %q, Encrypt %q, header %q", id, r.KeyID, h.Wraps[0].KeyID)
		}
		p.opens(r, "seed")
	})
}

// wandering is somebody's KEK that changes its id whenever it likes.
type wandering struct {
	envelope.KEK
	id func() string
}

func (w wandering) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	k, err := w.KEK.Wrap(ctx, dek)
	k.KeyID = w.id()
	return k, err
}

func (w wandering) Unwrap(ctx context.Context, k envelope.WrappedKey) ([]byte, error) {
	if !strings.HasPrefix(k.KeyID, "wandering-") {
		return nil, envelope.ErrUnknownKey
	}
	i, _ := envelope.As[envelope.Identifier](w.KEK)
	k.KeyID = i.KeyID()
	return w.KEK.Unwrap(ctx, k)
}

func TestRenewalNeverChangesTheKeyID(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		kek := wandering{KEK: v.kek(v.key("kek")), id: func() string {
			return "wandering-" + v.clock.Now().Format("2006-01-02")
		}}
		p := start(t, setup{ring: rotation.Config{Current: rotation.Key{KEK: &kek}}, options: kmsv2.Options{Now: v.clock.Now}})
		for day := range 4 {
			id := p.status()
			r := p.encrypt("seed")
			h, _, err := envelope.Inspect(r.Annotations[kmsv2.AnnotationHeader])
			must(t, err)
			if r.KeyID != id || h.Wraps[0].KeyID != id {
				t.Errorf("day %d: Status %q, Encrypt %q, header %q", day, id, r.KeyID, h.Wraps[0].KeyID)
			}
			p.opens(r, "seed")
			v.clock.forward(25 * time.Hour)
			pass(time.Minute)
		}
	})
}
