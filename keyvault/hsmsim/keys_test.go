package hsmsim_test

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// clock is an injected clock.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// TestDates walks one version through its life, boundaries included.
func TestDates(t *testing.T) {
	c := newClock()
	h, _ := open(t, hsmsim.Options{Now: c.now})
	ctx := t.Context()
	v, err := h.CreateKey(ctx, "kek", hsmsim.AES256)
	if err != nil {
		t.Fatal(err)
	}
	kek := mustKEK(t, h, hsmsim.Ref{Name: "kek"})
	dek := make([]byte, 32)
	w, err := kek.Wrap(ctx, dek)
	if err != nil {
		t.Fatal(err)
	}
	start := c.now()
	if err := h.SetNotBefore(ctx, "kek", "", start.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := h.SetExpiry(ctx, "kek", v.Version, start.Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		after time.Duration
		wrap  error
	}{
		{0, envelope.ErrNotYetValid},
		{time.Hour - 1, envelope.ErrNotYetValid},
		{time.Hour, nil},
		{2*time.Hour - 1, nil},
		{2 * time.Hour, envelope.ErrExpired},
		{1000 * time.Hour, envelope.ErrExpired},
	} {
		c.advance(start.Add(tt.after).Sub(c.now()))
		if _, err := kek.Wrap(ctx, dek); !errors.Is(err, tt.wrap) {
			t.Errorf("after %v Wrap answers %v, want %v", tt.after, err, tt.wrap)
		}
		p, _ := envelope.As[envelope.Prober](kek)
		if err := p.Probe(ctx); !errors.Is(err, tt.wrap) {
			t.Errorf("after %v Probe answers %v, want %v", tt.after, err, tt.wrap)
		}
		if _, err := kek.Unwrap(ctx, w); err != nil {
			t.Errorf("after %v Unwrap answers %v", tt.after, err)
		}
	}
	if err := h.SetExpiry(ctx, "kek", "", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := kek.Wrap(ctx, dek); err != nil {
		t.Errorf("expiry removed: %v", err)
	}
}

func TestAttributesAreKept(t *testing.T) {
	c := newClock()
	h, dir := open(t, hsmsim.Options{Now: c.now})
	ctx := t.Context()
	v, err := h.CreateKey(ctx, "kek", hsmsim.AES256)
	if err != nil {
		t.Fatal(err)
	}
	created := c.now()
	if !v.Enabled || !v.Created.Equal(created) || !v.Updated.Equal(created) || !v.Expires.IsZero() || !v.NotBefore.IsZero() {
		t.Errorf("a new version is %+v", v)
	}
	c.advance(time.Minute)
	exp := created.In(time.FixedZone("elsewhere", 3600)).Add(time.Hour)
	for _, err := range []error{
		h.SetEnabled(ctx, "kek", v.Version, false), h.SetExpiry(ctx, "kek", v.Version, exp), h.SetNotBefore(ctx, "kek", v.Version, created),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := v
	want.Attributes = hsmsim.Attributes{Enabled: false, NotBefore: created, Expires: exp.UTC(), Created: created, Updated: c.now()}
	for _, h := range []*hsmsim.HSM{h, reopen(t, dir, hsmsim.Options{})} {
		if got, err := h.Key(ctx, "kek", ""); err != nil || got != want {
			t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
		}
	}
	// A later version has attributes of its own.
	v2, err := h.Rotate(ctx, "kek")
	if err != nil {
		t.Fatal(err)
	}
	list, err := h.Versions(ctx, "kek")
	if err != nil || len(list) != 2 || list[0] != want || list[1] != v2 || !v2.Enabled || v2.Version == v.Version {
		t.Errorf("versions %+v, %v", list, err)
	}
}

func TestDeleteRecoverPurge(t *testing.T) {
	c := newClock()
	h, _ := open(t, hsmsim.Options{Now: c.now})
	ctx := t.Context()
	v, err := h.CreateKey(ctx, "kek", hsmsim.AES256)
	if err != nil {
		t.Fatal(err)
	}
	kek := mustKEK(t, h, hsmsim.Ref{Name: "kek"})
	dek := bytes.Repeat([]byte{1}, 32)
	w, err := kek.Wrap(ctx, dek)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, h.Recover(ctx, "kek"), envelope.ErrInvalid, "delete it first")
	wantError(t, h.Purge(ctx, "kek"), envelope.ErrInvalid, "delete it first")

	if err := h.Delete(ctx, "kek"); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Unwrap":     second(kek.Unwrap(ctx, w)),
		"Key":        second(h.Key(ctx, "kek", "")),
		"Versions":   second(h.Versions(ctx, "kek")),
		"Rotate":     second(h.Rotate(ctx, "kek")),
		"SetEnabled": h.SetEnabled(ctx, "kek", v.Version, true),
		"Delete":     h.Delete(ctx, "kek"),
	} {
		t.Run("deleted/"+name, func(t *testing.T) { wantError(t, err, envelope.ErrDeleted, "recover") })
	}
	_, err = h.CreateKey(ctx, "kek", hsmsim.AES256)
	wantError(t, err, hsmsim.ErrExists, "purge")
	if list, err := h.Keys(ctx); err != nil || len(list) != 1 || !list[0].Deleted.Equal(c.now()) {
		t.Errorf("keys %+v, %v", list, err)
	}

	if err := h.Recover(ctx, "kek"); err != nil {
		t.Fatal(err)
	}
	if got, err := kek.Unwrap(ctx, w); err != nil || !bytes.Equal(got, dek) {
		t.Errorf("recovered: %v", err)
	}

	if err := errors.Join(h.Delete(ctx, "kek"), h.Purge(ctx, "kek")); err != nil {
		t.Fatal(err)
	}
	wantError(t, h.Recover(ctx, "kek"), envelope.ErrDeleted, "check the name")
	wantError(t, second(kek.Unwrap(ctx, w)), envelope.ErrDeleted, "create")
	// The name is free again; what the purged key wrapped is lost.
	if _, err := h.CreateKey(ctx, "kek", hsmsim.AES256); err != nil {
		t.Fatal(err)
	}
	wantError(t, second(kek.Unwrap(ctx, w)), envelope.ErrDeleted, "version")
}

func second[T any](_ T, err error) error { return err }

func TestCreateKey(t *testing.T) {
	h, _ := open(t, hsmsim.Options{})
	ctx := t.Context()
	for _, name := range []string{"b", "A-0", strings.Repeat("k", 127)} {
		if _, err := h.CreateKey(ctx, name, hsmsim.AES256); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		err := second(h.CreateKey(ctx, name, hsmsim.AES256))
		wantError(t, err, envelope.ErrInvalid, "rotate")
		wantError(t, err, hsmsim.ErrExists, "rotate")
	}
	for _, name := range []string{"", "a/b", "..", "a b", "ä", "a\n", strings.Repeat("k", 128)} {
		wantError(t, second(h.CreateKey(ctx, name, hsmsim.AES256)), envelope.ErrInvalid, "a-z")
		wantError(t, second(h.KEK(hsmsim.Ref{Name: name})), envelope.ErrInvalid, "a-z")
		wantError(t, second(h.Key(ctx, name, "")), envelope.ErrInvalid, "a-z")
	}
	for _, spec := range []hsmsim.KeySpec{"", "AES-128", "RSA-1024", "rsa-2048"} {
		wantError(t, second(h.CreateKey(ctx, "new", spec)), envelope.ErrInvalid, "AES-256")
	}
	for _, version := range []string{"1", strings.Repeat("0", 31), strings.Repeat("A", 32), strings.Repeat("0", 33)} {
		wantError(t, second(h.KEK(hsmsim.Ref{Name: "b", Version: version})), envelope.ErrInvalid, "32 hex")
		wantError(t, second(h.Key(ctx, "b", version)), envelope.ErrInvalid, "32 hex")
	}
	list, err := h.Keys(ctx)
	if err != nil || len(list) != 3 || list[0].Name != "A-0" || list[1].Name != "b" {
		t.Errorf("keys %+v, %v", list, err)
	}
}

func TestPermissions(t *testing.T) {
	admin, dir := open(t, hsmsim.Options{})
	ctx := t.Context()
	v, err := admin.CreateKey(ctx, "kek", hsmsim.AES256)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := admin.Encrypt(ctx, "kek", "", hsmsim.Params{Algorithm: hsmsim.A256GCM, Value: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	params := hsmsim.Params{Algorithm: hsmsim.A256GCM, Value: []byte("x")}
	back := hsmsim.Params{Algorithm: hsmsim.A256GCM, Value: sealed.Value, IV: sealed.IV, Tag: sealed.Tag}
	call := map[hsmsim.Operation]func(h *hsmsim.HSM) error{
		hsmsim.OpCreate:    func(h *hsmsim.HSM) error { return second(h.CreateKey(ctx, "new", hsmsim.AES256)) },
		hsmsim.OpGet:       func(h *hsmsim.HSM) error { return second(h.Key(ctx, "kek", "")) },
		hsmsim.OpList:      func(h *hsmsim.HSM) error { return errors.Join(second(h.Keys(ctx)), second(h.Versions(ctx, "kek"))) },
		hsmsim.OpUpdate:    func(h *hsmsim.HSM) error { return h.SetEnabled(ctx, "kek", v.Version, true) },
		hsmsim.OpRotate:    func(h *hsmsim.HSM) error { return second(h.Rotate(ctx, "kek")) },
		hsmsim.OpDelete:    func(h *hsmsim.HSM) error { return h.Delete(ctx, "new") },
		hsmsim.OpRecover:   func(h *hsmsim.HSM) error { return h.Recover(ctx, "new") },
		hsmsim.OpPurge:     func(h *hsmsim.HSM) error { return h.Purge(ctx, "new") },
		hsmsim.OpEncrypt:   func(h *hsmsim.HSM) error { return second(h.Encrypt(ctx, "kek", v.Version, params)) },
		hsmsim.OpDecrypt:   func(h *hsmsim.HSM) error { return second(h.Decrypt(ctx, "kek", v.Version, back)) },
		hsmsim.OpWrapKey:   func(h *hsmsim.HSM) error { return second(h.WrapKey(ctx, "kek", v.Version, params)) },
		hsmsim.OpUnwrapKey: func(h *hsmsim.HSM) error { return second(h.UnwrapKey(ctx, "kek", v.Version, back)) },
	}
	// Purge needs a deleted key again after Recover.
	prepare := map[hsmsim.Operation]func() error{hsmsim.OpPurge: func() error { return admin.Delete(ctx, "new") }}
	for _, op := range hsmsim.Operations() {
		if f := prepare[op]; f != nil {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}
		var others []hsmsim.Operation
		for _, other := range hsmsim.Operations() {
			if other != op {
				others = append(others, other)
			}
		}
		wantError(t, call[op](reopen(t, dir, hsmsim.Options{Permissions: others})), envelope.ErrForbidden, string(op))
		if err := call[op](reopen(t, dir, hsmsim.Options{Permissions: []hsmsim.Operation{op}})); err != nil {
			t.Errorf("%s with its permission alone: %v", op, err)
		}
	}
}
