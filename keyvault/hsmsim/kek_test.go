package hsmsim_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// open returns a new HSM in a temporary folder.
func open(t testing.TB, o hsmsim.Options) (*hsmsim.HSM, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "hsm")
	return reopen(t, dir, o), dir
}

func reopen(t testing.TB, dir string, o hsmsim.Options) *hsmsim.HSM {
	t.Helper()
	h, err := hsmsim.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func TestOldVersionsUnwrapAfterRotation(t *testing.T) {
	h, dir := open(t, hsmsim.Options{})
	ctx := t.Context()
	first, err := h.CreateKey(ctx, "kek", hsmsim.AES256)
	if err != nil {
		t.Fatal(err)
	}
	kek, err := h.KEK(hsmsim.Ref{Name: "kek"})
	if err != nil {
		t.Fatal(err)
	}
	dek := bytes.Repeat([]byte{7}, 32)
	w, err := kek.Wrap(ctx, dek)
	if err != nil {
		t.Fatal(err)
	}
	if w.KeyID != first.KeyID {
		t.Errorf("wrapped under %s, want %s", w.KeyID, first.KeyID)
	}
	second, err := h.Rotate(ctx, "kek")
	if err != nil {
		t.Fatal(err)
	}
	if w2, err := kek.Wrap(ctx, dek); err != nil || w2.KeyID != second.KeyID {
		t.Errorf("after rotation wrapped under %s, %v, want %s", w2.KeyID, err, second.KeyID)
	}
	again, err := reopen(t, dir, hsmsim.Options{}).KEK(hsmsim.Ref{Name: "kek", Version: second.Version})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Unwrap(ctx, w); err != nil || !bytes.Equal(got, dek) {
		t.Errorf("old wrap after reopening: %x, %v", got, err)
	}
	if err := h.SetEnabled(ctx, "kek", first.Version, false); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Unwrap(ctx, w); !errors.Is(err, envelope.ErrDisabled) {
		t.Errorf("disabled version: %v", err)
	}
}

// TestImpossibleVersion: an id of the key's family, whose version cannot be one, is
// of no key here and reaches none.
func TestImpossibleVersion(t *testing.T) {
	h, dir := open(t, hsmsim.Options{})
	if _, err := h.CreateKey(t.Context(), "kek", hsmsim.AES256); err != nil {
		t.Fatal(err)
	}
	kek := mustKEK(t, h, hsmsim.Ref{Name: "kek"})
	w, err := kek.Wrap(t.Context(), make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	before := len(readLog(t, dir))
	for _, version := range []string{"1", "latest", strings.Repeat("A", 32), strings.Repeat("0", 64)} {
		w.KeyID = w.KeyID[:envelope.FamilySize] + "/" + version
		_, err := kek.Unwrap(t.Context(), w)
		wantError(t, err, envelope.ErrUnknownKey, "configure")
	}
	if n := len(readLog(t, dir)) - before; n != 0 {
		t.Errorf("%d operations", n)
	}
}
