package rotation_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/rotation"
)

// FuzzUnwrapID: whatever id stands in stored data, a back end of named keys sees it
// only if it is of that name and without an epoch, the ring admits exactly what it
// would ask for, and nothing moves the health of its keys.
func FuzzUnwrapID(f *testing.F) {
	for _, id := range []string{
		"", "/", "x", keyID("a", "1", 0), keyID("a", "1", 7), keyID("b", "2", 0), keyID("c", "1", 0),
		keyID("a", "1", 0) + ".00", familyOf("a") + "/", familyOf("a") + "/../1", strings.ToUpper(keyID("a", "1", 0)), "corp-kek-7",
	} {
		f.Add(id, []byte("blob"))
	}
	f.Fuzz(func(t *testing.T, id string, blob []byte) {
		a, b := newVault(), newVault()
		foreign := &identifiedOwn{own{id: "corp-kek-7"}}
		r := newRing(t, rotation.Config{
			Current: rotation.Key{KEK: a.key("a", "1"), Epoch: 2}, Previous: &rotation.Key{KEK: foreign},
			Read: []rotation.Key{{KEK: b.anyVersion("b")}},
		}, rotation.Options{})
		_, err := r.Unwrap(t.Context(), envelope.WrappedKey{KeyID: id, Algorithm: "fake", Blob: blob})
		key, parseErr := envelope.ParseKeyID(id)
		for name, v := range map[string]*vault{"a": a, "b": b} {
			ours := parseErr == nil && key.Family == familyOf(name)
			if asked := len(v.ids()) != 0; asked != ours {
				t.Fatalf("id %q: the back end of %s was asked: %v", id, name, asked)
			}
			base := envelope.KeyID{Family: key.Family, Version: key.Version}
			if ours && (v.ids()[0] != base.String() || !r.Admits(id)) {
				t.Fatalf("id %q reached the back end as %q, admitted %v", id, v.ids()[0], r.Admits(id))
			}
			if ours {
				return
			}
		}
		if id == "corp-kek-7" {
			if err != nil || !r.Admits(id) {
				t.Fatalf("the foreign id did not open: %v", err)
			}
			return
		}
		if !errors.Is(err, envelope.ErrUnknownKey) || r.Admits(id) {
			t.Fatalf("id %q: %v, admitted %v", id, err, r.Admits(id))
		}
		if h := r.Health(); h != (rotation.Health{}) {
			t.Fatalf("health moved to %+v", h)
		}
	})
}
