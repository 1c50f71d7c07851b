package hsmsim_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// TestHandlesSeeEachOther: what one handle writes, the next operation of another
// sees. Whether they share a process makes no difference; see TestProcesses.
func TestHandlesSeeEachOther(t *testing.T) {
	a, dir := open(t, hsmsim.Options{})
	b := reopen(t, dir, hsmsim.Options{})
	ctx := t.Context()
	if _, err := a.CreateKey(ctx, "kek", hsmsim.AES256); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		v, err := a.Rotate(ctx, "kek")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := b.Key(ctx, "kek", ""); err != nil || got != v {
			t.Fatalf("the other handle sees %+v, %v, want %+v", got, err, v)
		}
		// Two writes of one size, as close together as can be.
		for _, enabled := range []bool{false, true} {
			if err := b.SetEnabled(ctx, "kek", v.Version, enabled); err != nil {
				t.Fatal(err)
			}
			if got, err := a.Key(ctx, "kek", ""); err != nil || got.Enabled != enabled {
				t.Fatalf("the other handle sees enabled %t, %v", got.Enabled, err)
			}
		}
	}
}

// TestConcurrentWritersLoseNothing: handles and goroutines rotate and wrap at once.
func TestConcurrentWritersLoseNothing(t *testing.T) {
	const writers, rotations = 4, 4
	h, dir := open(t, hsmsim.Options{})
	ctx := t.Context()
	if _, err := h.CreateKey(ctx, "kek", hsmsim.AES256); err != nil {
		t.Fatal(err)
	}
	handles := []*hsmsim.HSM{h, reopen(t, dir, hsmsim.Options{})}
	made := make(chan string, writers*rotations)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			h := handles[i%len(handles)]
			kek := mustKEK(t, handles[(i+1)%len(handles)], hsmsim.Ref{Name: "kek"})
			dek := bytes.Repeat([]byte{byte(i)}, 32)
			for range rotations {
				v, err := h.Rotate(ctx, "kek")
				if err != nil {
					t.Error(err)
					return
				}
				made <- v.Version
				w, err := kek.Wrap(ctx, dek)
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := kek.Unwrap(ctx, w); err != nil || !bytes.Equal(got, dek) {
					t.Errorf("Unwrap: %v", err)
				}
			}
		})
	}
	wg.Wait()
	close(made)
	list, err := h.Versions(ctx, "kek")
	if err != nil || len(list) != 1+writers*rotations {
		t.Fatalf("%d versions, %v, want %d", len(list), err, 1+writers*rotations)
	}
	kept := map[string]bool{}
	for _, v := range list {
		kept[v.Version] = true
	}
	for version := range made {
		if !kept[version] {
			t.Errorf("version %s is lost", version)
		}
	}
}

// TestStoppedWriter: who waits for a writer that is stopped heeds its context.
func TestStoppedWriter(t *testing.T) {
	h, dir := open(t, hsmsim.Options{})
	if _, err := h.CreateKey(t.Context(), "kek", hsmsim.AES256); err != nil {
		t.Fatal(err)
	}
	unlock, err := hsmsim.LockFolder(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = h.Rotate(ctx, "kek")
	wantError(t, err, envelope.ErrUnreachable, "stopped")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v does not show the context's error", err)
	}
	if _, err := h.Key(t.Context(), "kek", ""); err != nil {
		t.Errorf("reading meanwhile: %v", err)
	}
	unlock()
	if _, err := h.Rotate(t.Context(), "kek"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
