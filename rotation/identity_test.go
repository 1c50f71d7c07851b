package rotation_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/internal/bubble"
	"github.com/keyfold/keyfold/rotation"
)

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

// late is a versionless KEK whose first answer is overtaken by what meanwhile does.
type late struct {
	versionless
	meanwhile func()
}

func (k *late) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	w, err := k.versionless.Wrap(ctx, dek)
	if f := k.meanwhile; f != nil {
		k.meanwhile = nil
		f()
	}
	return w, err
}

func TestAdoptedVersionOutlastsALateAnswer(t *testing.T) {
	v := newVault()
	v.latest["a"] = "7"
	k := &late{versionless: versionless{vault: v, name: "a"}}
	r := newRing(t, one(k), rotation.Options{})
	k.meanwhile = func() {
		v.latest["a"] = "8"
		mustWrap(t, r)
	}
	if w := mustWrap(t, r); w.KeyID != keyID("a", "7", 0) {
		t.Errorf("the late wrap is called %s", w.KeyID)
	}
	if id := r.Writer().KeyID; id != keyID("a", "8", 0) {
		t.Errorf("the writer went back to %s", id)
	}
}

// counting is a decorator.
type counting struct {
	envelope.KEK
	wraps int
}

func (c *counting) Underlying() envelope.KEK { return c.KEK }

func (c *counting) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	c.wraps++
	return c.KEK.Wrap(ctx, dek)
}

// A decorator around a KEK that is not pinned is never gone past.
func TestDecoratorStaysInPlace(t *testing.T) {
	v := newVault()
	v.latest["a"] = "1"
	c := &counting{KEK: v.anyVersion("a")}
	r := newRing(t, one(c), rotation.Options{})
	for _, version := range []string{"1", "1", "2"} {
		v.latest["a"] = version
		if w := mustWrap(t, r); w.KeyID != keyID("a", version, 0) || r.Writer().KeyID != w.KeyID {
			t.Errorf("wrapped under %s, the writer says %s", w.KeyID, r.Writer().KeyID)
		}
	}
	if c.wraps != 3 {
		t.Errorf("the decorator saw %d of 3 wraps", c.wraps)
	}
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
	t.Run("a key that moves on", func(t *testing.T) {
		k := &own{id: "corp-kek-7"}
		r := newRing(t, one(k), rotation.Options{})
		w := mustWrap(t, r)
		k.id = "corp-kek-8"
		if now := mustWrap(t, r); !r.Admits(now.KeyID) || !r.Admits(w.KeyID) {
			t.Error("an id that it wrote is not admitted")
		}
	})
	t.Run("ids without end", func(t *testing.T) {
		r := newRing(t, rotation.Config{Current: rotation.Key{KEK: v.key("a", "1")}, Read: []rotation.Key{{KEK: anyID{}}}}, rotation.Options{})
		admitted := 0
		for i := range 100 {
			w := envelope.WrappedKey{KeyID: fmt.Sprintf("corp-kek-%d", i), Algorithm: "own", Blob: dek}
			mustUnwrap(t, r, w)
			if r.Admits(w.KeyID) {
				admitted++
			}
		}
		if admitted != 64 {
			t.Errorf("%d ids are remembered, want 64", admitted)
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

// anyID opens whatever it is given, under any id.
type anyID struct{ envelope.KEK }

func (anyID) Unwrap(_ context.Context, w envelope.WrappedKey) ([]byte, error) {
	return bytes.Clone(w.Blob), nil
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
		bubble.Test(t, func(t *testing.T) {
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

	// It reads more keys than the one it writes with, epoch or not.
	inner = newRing(t, two(v.key("b", "1"), v.key("a", "1")), rotation.Options{})
	outer = newRing(t, one(inner), rotation.Options{})
	old := mustWrap(t, v.key("a", "1"))
	mustUnwrap(t, outer, mustWrap(t, outer))
	mustUnwrap(t, outer, old)
	if !outer.Admits(old.KeyID) {
		t.Error("not admitted after it opened")
	}
}
