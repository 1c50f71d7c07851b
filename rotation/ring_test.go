package rotation_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyfold/keyfold/cache"
	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/internal/bubble"
	"github.com/keyfold/keyfold/rotation"
)

func TestEveryConfiguredKeyReads(t *testing.T) {
	v := newVault()
	r := newRing(t, rotation.Config{
		Current:  rotation.Key{KEK: v.key("a", "2"), Epoch: 3},
		Previous: &rotation.Key{KEK: v.key("a", "1")},
		Read:     []rotation.Key{{KEK: v.anyVersion("b")}},
	}, rotation.Options{})
	w := mustWrap(t, r)
	if want := keyID("a", "2", 3); w.KeyID != want || r.Writer().KeyID != want {
		t.Fatalf("wrapped under %s, the writer says %s, want %s", w.KeyID, r.Writer().KeyID, want)
	}
	mustUnwrap(t, r, w)

	// Any version of a configured name, known or not, under any epoch; and the back end
	// never sees an epoch.
	for _, name := range []string{"a", "b"} {
		for _, version := range []string{"1", "2", "77"} {
			for _, epoch := range []uint32{0, 1, 9} {
				w := mustWrap(t, v.key(name, version))
				w.KeyID = keyID(name, version, epoch)
				mustUnwrap(t, r, w)
				if !r.Admits(w.KeyID) {
					t.Errorf("%s is not admitted", w.KeyID)
				}
			}
		}
	}
	for _, id := range v.ids() {
		if key, err := envelope.ParseKeyID(id); err != nil || key.Epoch != 0 {
			t.Errorf("the back end saw %q", id)
		}
	}
}

func TestForeignIDsReachNobody(t *testing.T) {
	v := newVault()
	r := newRing(t, rotation.Config{
		Current: rotation.Key{KEK: v.key("a", "1")},
		Read:    []rotation.Key{{KEK: v.anyVersion("b")}},
	}, rotation.Options{})
	for _, id := range []string{"", "x", keyID("c", "1", 0), keyID("c", "1", 4), strings.Repeat("y", 255), familyOf("a"), keyID("a", "1", 0) + ".0", keyID("a", "../x", 0)} {
		_, err := r.Unwrap(t.Context(), envelope.WrappedKey{KeyID: id, Algorithm: "fake", Blob: []byte("blob")})
		wantClass(t, err, envelope.ErrUnknownKey)
		if r.Admits(id) {
			t.Errorf("%q is admitted", id)
		}
	}
	if ids := v.ids(); len(ids) != 0 {
		t.Errorf("the back end saw %q", ids)
	}
}

func TestFailuresPassThrough(t *testing.T) {
	v := newVault()
	r := newRing(t, two(v.key("a", "2"), v.key("a", "1")), rotation.Options{})
	w := mustWrap(t, v.key("a", "1"))
	for _, class := range []error{envelope.ErrDisabled, envelope.ErrUnreachable, envelope.ErrCorrupt, envelope.ErrForbidden} {
		v.set(func(v *vault) { v.unwrap["1"] = class })
		_, err := r.Unwrap(t.Context(), w)
		wantClass(t, err, class)
	}
}

func TestCapabilitiesShowThrough(t *testing.T) {
	v := newVault()
	r := newRing(t, rotation.Config{Current: rotation.Key{KEK: v.key("a", "1"), Epoch: 2}}, rotation.Options{})
	id, ok := envelope.As[envelope.Identifier](r)
	if !ok || id.KeyID() != keyID("a", "1", 2) {
		t.Errorf("Identifier: %v, %v; want the id with its epoch", id, ok)
	}
	d, ok := envelope.As[envelope.Describer](r)
	if !ok {
		t.Fatal("no Describer")
	}
	if info, err := d.Describe(t.Context()); err != nil || info.Name != "vault/a/1" {
		t.Errorf("Describe = %+v, %v", info, err)
	}
	if _, ok := envelope.As[envelope.Identifier](newRing(t, one(&own{id: "x"}), rotation.Options{})); ok {
		t.Error("a ring whose writer's id is not known tells one")
	}
}

// A to B and back to A: with a higher epoch, the id is one never used before.
func TestGoingBackTakesANewEpoch(t *testing.T) {
	v := newVault()
	a, b := v.key("a", "1"), v.key("a", "2")
	r := newRing(t, one(a), rotation.Options{})
	var ids []string
	var wraps []envelope.WrappedKey
	step := func() {
		w := mustWrap(t, r)
		if slices.Contains(ids, w.KeyID) {
			t.Fatalf("the id %s was used before", w.KeyID)
		}
		ids, wraps = append(ids, w.KeyID), append(wraps, w)
		for _, w := range wraps {
			mustUnwrap(t, r, w)
		}
	}
	step()
	for _, cfg := range []rotation.Config{
		two(b, a),
		{Current: rotation.Key{KEK: a, Epoch: 1}, Previous: &rotation.Key{KEK: b}},
		{Current: rotation.Key{KEK: b, Epoch: 1}, Previous: &rotation.Key{KEK: a, Epoch: 1}},
	} {
		if err := r.Reload(cfg); err != nil {
			t.Fatal(err)
		}
		step()
	}
}

func TestLastUsed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault()
		r := newRing(t, rotation.Config{
			Current: rotation.Key{KEK: v.key("a", "2")}, Previous: &rotation.Key{KEK: v.key("a", "1")},
			Read: []rotation.Key{{KEK: v.anyVersion("b")}},
		}, rotation.Options{})
		r.Probe(t.Context())
		for _, k := range r.Keys() {
			if !k.LastUsed().IsZero() {
				t.Errorf("%s: a probe counts as use", k.Role)
			}
		}
		old := mustWrap(t, v.key("a", "1"))
		time.Sleep(time.Minute)
		mustWrap(t, r)
		wrapped := time.Now()
		time.Sleep(time.Minute)
		mustUnwrap(t, r, old)
		opened := time.Now()
		keys := r.Keys()
		if len(keys) != 3 || !keys[0].LastWrap.Equal(wrapped) || !keys[0].LastUnwrap.IsZero() || !keys[0].Writer {
			t.Errorf("current: %+v", keys[0])
		}
		if !keys[1].LastUsed().Equal(opened) || !keys[1].LastWrap.IsZero() || keys[1].Writer || keys[1].ID != keyID("a", "1", 0) {
			t.Errorf("previous: %+v", keys[1])
		}
		if !keys[2].LastUsed().IsZero() || keys[2].Role != rotation.RoleRead {
			t.Errorf("read: %+v", keys[2])
		}
	})
}

// The ring is the gate of a cache: what is read no more is not served from memory.
func TestRingIsTheGateOfACache(t *testing.T) {
	v := newVault()
	r := newRing(t, two(v.key("b", "1"), v.key("a", "1")), rotation.Options{})
	c, err := cache.New(r, cache.Options{Gate: r})
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := envelope.NewSealer(v.key("a", "1"), envelope.SealerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer sealer.Close()
	env, err := sealer.Seal(t.Context(), []byte("plaintext"), nil)
	if err != nil {
		t.Fatal(err)
	}
	opener := envelope.NewOpenerFrom(c)
	for range 2 {
		if p, err := opener.Open(t.Context(), env, nil); err != nil || !bytes.Equal(p, []byte("plaintext")) {
			t.Fatalf("Open = %q, %v", p, err)
		}
	}
	if s := c.Stats(); s.Loads != 1 || s.Hits != 1 {
		t.Fatalf("%+v, want a load and a hit", s)
	}
	cfg := one(v.key("b", "1"))
	cfg.Force = true
	if err := r.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	_, err = opener.Open(t.Context(), env, nil)
	wantClass(t, err, envelope.ErrUnknownKey)
	if err := r.Reload(two(v.key("b", "1"), v.key("a", "1"))); err != nil {
		t.Fatal(err)
	}
	if _, err := opener.Open(t.Context(), env, nil); err != nil {
		t.Fatalf("after the key came back: %v", err)
	}
}
