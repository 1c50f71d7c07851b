package hsmsim_test

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/envelope/kektest"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

func TestConformance(t *testing.T) {
	for _, spec := range []hsmsim.KeySpec{hsmsim.AES256, hsmsim.RSA2048, hsmsim.RSA3072, hsmsim.RSA4096} {
		t.Run(string(spec), func(t *testing.T) {
			t.Parallel()
			kektest.Run(t, func(t *testing.T) kektest.Subject {
				s := subject(t, spec, false)
				if spec == hsmsim.RSA4096 {
					s.Rotate = nil // making such a key takes seconds, and the smaller ones show the same
				}
				return s
			})
		})
	}
	t.Run("pinned", func(t *testing.T) {
		t.Parallel()
		kektest.Run(t, func(t *testing.T) kektest.Subject { return subject(t, hsmsim.AES256, true) })
	})
}

// subject makes a subject with every hook.
func subject(t *testing.T, spec hsmsim.KeySpec, pinned bool) kektest.Subject {
	h, dir := open(t, hsmsim.Options{})
	ctx := t.Context()
	v, err := h.CreateKey(ctx, "kek", spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.CreateKey(ctx, "foreign", spec); err != nil {
		t.Fatal(err)
	}
	ref := hsmsim.Ref{Name: "kek"}
	if pinned {
		ref.Version = v.Version
	}
	kek := mustKEK(t, h, ref)
	switched := &switchable{KEK: kek, other: mustKEK(t, reopen(t, dir, hsmsim.Options{Permissions: []hsmsim.Operation{}}), ref)}

	attribute := func(set, unset func(ctx context.Context) error) kektest.Hook {
		return func(ctx context.Context) (func() error, error) {
			return func() error { return unset(ctx) }, set(ctx)
		}
	}
	expiry := func(at time.Time) func(context.Context) error {
		return func(ctx context.Context) error { return h.SetExpiry(ctx, "kek", v.Version, at) }
	}
	notBefore := func(at time.Time) func(context.Context) error {
		return func(ctx context.Context) error { return h.SetNotBefore(ctx, "kek", v.Version, at) }
	}
	enabled := func(on bool) func(context.Context) error {
		return func(ctx context.Context) error { return h.SetEnabled(ctx, "kek", v.Version, on) }
	}
	faults := func(f hsmsim.Faults) kektest.Hook {
		return func(context.Context) (func() error, error) {
			return func() error { return os.Remove(filepath.Join(dir, "faults.json")) }, hsmsim.WriteFaults(dir, f)
		}
	}
	return kektest.Subject{
		KEK:         switched,
		Foreign:     mustKEK(t, h, hsmsim.Ref{Name: "foreign"}),
		Disable:     attribute(enabled(false), enabled(true)),
		Expire:      attribute(expiry(time.Now().Add(-time.Hour)), expiry(time.Time{})),
		NotYetValid: attribute(notBefore(time.Now().Add(time.Hour)), notBefore(time.Time{})),
		Delete: attribute(func(ctx context.Context) error { return h.Delete(ctx, "kek") },
			func(ctx context.Context) error { return h.Recover(ctx, "kek") }),
		Forbid: func(context.Context) (func() error, error) {
			switched.on.Store(true)
			return func() error { switched.on.Store(false); return nil }, nil
		},
		Throttle: faults(hsmsim.Faults{Limit: hsmsim.Limit{Per: time.Hour}}),
		Outage:   faults(hsmsim.Faults{Outage: true}),
		Stall:    faults(hsmsim.Faults{Latency: time.Hour}),
		Rotate: func(ctx context.Context) error {
			_, err := h.Rotate(ctx, "kek")
			return err
		},
		Calls: func() int { return len(readLog(t, dir)) },
	}
}

// switchable uses the KEK of another handle, one without permissions, while on.
type switchable struct {
	envelope.KEK
	other envelope.KEK
	on    atomic.Bool
}

func (s *switchable) Underlying() envelope.KEK { return s.KEK }

func (s *switchable) now() envelope.KEK {
	if s.on.Load() {
		return s.other
	}
	return s.KEK
}

func (s *switchable) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	return s.now().Wrap(ctx, dek)
}

func (s *switchable) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	return s.now().Unwrap(ctx, w)
}

func mustKEK(t testing.TB, h *hsmsim.HSM, ref hsmsim.Ref) envelope.KEK {
	t.Helper()
	k, err := h.KEK(ref)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func readLog(t testing.TB, dir string) (entries []hsmsim.LogEntry) {
	t.Helper()
	for e, err := range hsmsim.ReadLog(dir) {
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	return entries
}
