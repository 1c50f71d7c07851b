package rotation_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyfold/keyfold/cache"
	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/rotation"
)

func TestConfigIsValidated(t *testing.T) {
	v := newVault()
	a1, a2, b := v.key("a", "1"), v.key("a", "2"), v.key("b", "1")
	var none *own
	foreign := &own{id: "x"}
	for name, tt := range map[string]struct {
		cfg  rotation.Config
		says string
	}{
		"no current":             {rotation.Config{}, "current has no key"},
		"a nil pointer":          {one(none), "current has no key"},
		"previous without key":   {two(a2, nil), "previous has no key"},
		"read without key":       {rotation.Config{Current: rotation.Key{KEK: a1}, Read: []rotation.Key{{KEK: b}, {}}}, "read[1] has no key"},
		"activateAt alone":       {rotation.Config{Current: rotation.Key{KEK: a1}, ActivateAt: time.Now()}, "no previous"},
		"current is previous":    {two(a1, v.key("a", "1")), "same key"},
		"the same unknown id":    {two(foreign, foreign), "same key"},
		"a read key twice":       {rotation.Config{Current: rotation.Key{KEK: a1}, Read: []rotation.Key{{KEK: b}, {KEK: v.key("b", "1"), Epoch: 1}}}, "read[1] repeats"},
		"epoch without families": {rotation.Config{Current: rotation.Key{KEK: &identifiedOwn{own{id: "x"}}, Epoch: 1}}, "epoch"},
	} {
		_, err := rotation.New(tt.cfg, rotation.Options{})
		typed, ok := errors.AsType[*envelope.Error](err)
		if !ok || !errors.Is(err, envelope.ErrInvalid) || typed.Remedy == "" || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v; want invalid, with a remedy, saying %q", name, err, tt.says)
		}
	}
	for name, cfg := range map[string]rotation.Config{
		"alone":                   one(a1),
		"the same, another epoch": {Current: rotation.Key{KEK: a1, Epoch: 1}, Previous: &rotation.Key{KEK: v.key("a", "1")}},
		"read key already in use": {Current: rotation.Key{KEK: b}, Previous: &rotation.Key{KEK: a1}, Read: []rotation.Key{{KEK: b}}},
		"two versions to read":    {Current: rotation.Key{KEK: b}, Read: []rotation.Key{{KEK: a1}, {KEK: a2}}},
	} {
		if _, err := rotation.New(cfg, rotation.Options{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, o := range map[string]rotation.Options{"interval": {ProbeInterval: -1}, "time-out": {ProbeTimeout: -1}} {
		if _, err := rotation.New(one(a1), o); !errors.Is(err, envelope.ErrInvalid) {
			t.Errorf("negative %s: %v", name, err)
		}
	}
	if n := v.calls(); n != 0 {
		t.Errorf("validation called the vault %d times", n)
	}
}

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

// A KEK that is not pinned adopts the version of its first wrap and keeps it.
func TestVersionlessKeyAdoptsItsFirstVersion(t *testing.T) {
	v := newVault()
	v.latest["a"] = "7"
	r := newRing(t, rotation.Config{Current: rotation.Key{KEK: v.anyVersion("a"), Epoch: 1}}, rotation.Options{})
	if id := r.Writer().KeyID; id != "" {
		t.Fatalf("the id %q is known before the first wrap", id)
	}
	changed := r.Changed()
	first := mustWrap(t, r)
	if want := keyID("a", "7", 1); first.KeyID != want || r.Writer().KeyID != want {
		t.Fatalf("id %s, writer %s, want %s", first.KeyID, r.Writer().KeyID, want)
	}
	select {
	case <-changed:
	default:
		t.Error("Changed did not tell of the id")
	}
	v.latest["a"] = "8"
	if again := mustWrap(t, r); again.KeyID != first.KeyID {
		t.Errorf("the id moved by itself to %s", again.KeyID)
	}
	mustUnwrap(t, r, mustWrap(t, v.key("a", "8")))
}

func TestBackEndWithIDsOfItsOwn(t *testing.T) {
	v := newVault()
	for name, kek := range map[string]envelope.KEK{
		"told": &identifiedOwn{own{id: "corp-kek-7"}}, "learned": &own{id: "corp-kek-7"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRing(t, two(kek, v.key("a", "1")), rotation.Options{})
			w := mustWrap(t, r)
			if w.KeyID != "corp-kek-7" || r.Writer().KeyID != w.KeyID {
				t.Fatalf("wrapped under %q, writer %q", w.KeyID, r.Writer().KeyID)
			}
			mustUnwrap(t, r, w)
			mustUnwrap(t, r, mustWrap(t, v.key("a", "1")))
			if !r.Admits(w.KeyID) || r.Admits("corp-kek-8") {
				t.Error("Admits does not know the one id from the other")
			}
			_, err := r.Unwrap(t.Context(), envelope.WrappedKey{KeyID: "corp-kek-8", Algorithm: "own", Blob: dek})
			wantClass(t, err, envelope.ErrUnknownKey)
		})
	}
	t.Run("a read key", func(t *testing.T) {
		old := &own{id: "corp-kek-6"}
		r := newRing(t, rotation.Config{Current: rotation.Key{KEK: v.key("a", "1")}, Read: []rotation.Key{{KEK: old}}}, rotation.Options{})
		w := mustWrap(t, old)
		if r.Admits(w.KeyID) {
			t.Error("admitted before it is known whose it is")
		}
		mustUnwrap(t, r, w)
		if !r.Admits(w.KeyID) {
			t.Error("not admitted after it opened")
		}
	})
	t.Run("an epoch", func(t *testing.T) {
		r := newRing(t, rotation.Config{Current: rotation.Key{KEK: &own{id: "x"}, Epoch: 1}}, rotation.Options{})
		_, err := r.Wrap(t.Context(), dek)
		wantClass(t, err, envelope.ErrInvalid)
	})
	t.Run("its ids are not cut", func(t *testing.T) {
		id := keyID("z", "1", 2) // looks like one of ours with an epoch
		r := newRing(t, one(&identifiedOwn{own{id: id}}), rotation.Options{})
		w := mustWrap(t, r)
		if w.KeyID != id {
			t.Fatalf("wrapped under %q", w.KeyID)
		}
		mustUnwrap(t, r, w)
	})
}

// A back end without capabilities, whose ids say of which key they are: its name is
// learned from what it opens, or from what it tells of itself, and from then on it
// is asked for its own ids only.
func TestNameIsLearned(t *testing.T) {
	v := newVault()
	v.latest["b"] = "1"
	config := func(read envelope.KEK) rotation.Config {
		return rotation.Config{Current: rotation.Key{KEK: v.key("a", "1")}, Read: []rotation.Key{{KEK: read}}}
	}
	stranger := envelope.WrappedKey{KeyID: keyID("c", "1", 0), Algorithm: "fake", Blob: dek}
	check := func(t *testing.T, r *rotation.Ring) {
		t.Helper()
		if !r.Admits(keyID("b", "55", 0)) {
			t.Error("another version of the key is not admitted")
		}
		before := len(v.ids())
		_, err := r.Unwrap(t.Context(), stranger)
		wantClass(t, err, envelope.ErrUnknownKey)
		if len(v.ids()) != before {
			t.Error("the back end was asked for an id of another name")
		}
	}
	t.Run("from an unwrap", func(t *testing.T) {
		r := newRing(t, config(bare{v.anyVersion("b")}), rotation.Options{})
		_, err := r.Unwrap(t.Context(), stranger) // could be its own: only it can tell
		wantClass(t, err, envelope.ErrUnknownKey)
		w := mustWrap(t, v.key("b", "1"))
		w.KeyID = keyID("b", "1", 3)
		mustUnwrap(t, r, w)
		check(t, r)
	})
	t.Run("from a description", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b := v.anyVersion("b")
			r := newRing(t, config(&describing{bare{b}, b.(envelope.Describer)}), rotation.Options{})
			start(t, r)
			synctest.Wait()
			check(t, r)
		})
	})
	t.Run("from a wrap", func(t *testing.T) {
		r := newRing(t, rotation.Config{Current: rotation.Key{KEK: bare{v.anyVersion("b")}, Epoch: 2}}, rotation.Options{})
		if w := mustWrap(t, r); w.KeyID != keyID("b", "1", 2) {
			t.Errorf("wrapped under %s", w.KeyID)
		}
		check(t, r)
	})
}

// A ring is a KEK, so a ring of rings works: the inner one keeps the epochs.
func TestRingInARing(t *testing.T) {
	v := newVault()
	inner := newRing(t, rotation.Config{Current: rotation.Key{KEK: v.key("a", "1"), Epoch: 5}}, rotation.Options{})
	outer := newRing(t, one(inner), rotation.Options{})
	w := mustWrap(t, outer)
	if want := keyID("a", "1", 5); w.KeyID != want || outer.Writer().KeyID != want {
		t.Fatalf("wrapped under %q", w.KeyID)
	}
	mustUnwrap(t, outer, w)
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

func TestActivateAt(t *testing.T) {
	bubble(t, func(t *testing.T) {
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
	bubble(t, func(t *testing.T) {
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
