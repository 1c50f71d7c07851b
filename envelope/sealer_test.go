package envelope_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/internal/bubble"
)

func TestSealerOptions(t *testing.T) {
	kek := newKEK("kek")
	for name, o := range map[string]envelope.SealerOptions{
		"messages raised": {MaxMessages: envelope.SoftMaxMessages + 1},
		"bytes raised":    {MaxBytes: envelope.SoftMaxBytes + 1},
		"age raised":      {MaxAge: 24*time.Hour + 1},
		"age negative":    {MaxAge: -1},
	} {
		if s, err := envelope.NewSealer(kek, o); s != nil || !errors.Is(err, envelope.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if _, err := envelope.NewSealer(nil, envelope.SealerOptions{}); !errors.Is(err, envelope.ErrInvalid) {
		t.Errorf("no wrapper: %v, want ErrInvalid", err)
	}
	limits := envelope.SealerOptions{MaxMessages: envelope.SoftMaxMessages, MaxBytes: envelope.SoftMaxBytes, MaxAge: 24 * time.Hour}
	if s, err := envelope.NewSealer(kek, limits); err != nil {
		t.Errorf("the limits themselves: %v", err)
	} else {
		s.Close()
	}
}

// One DEK for many messages, wrapped once; each message with a nonce of its own.
func TestOneWrapManyMessages(t *testing.T) {
	kek := newKEK("kek")
	s := newSealer(t, kek, envelope.SealerOptions{})
	if s.Header() != nil {
		t.Error("a header before the first DEK")
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[string]bool)
	for range 8 {
		wg.Go(func() {
			for range 50 {
				env, err := s.Seal(t.Context(), []byte("same"), nil)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				seen[string(env)] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 400 {
		t.Errorf("%d distinct envelopes of 400", len(seen))
	}
	if n := kek.wrapCalls(); n != 1 {
		t.Errorf("%d wraps, want 1", n)
	}
	for env := range seen {
		if header, _, _ := envelope.Split([]byte(env)); !bytes.Equal(header, s.Header()) {
			t.Fatal("an envelope with another header")
		}
	}
}

// The first DEK: everybody waits for the same wrap, each within its own deadline,
// and the wrap outlives those who gave up.
func TestPrepareDeadline(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		kek := newKEK("kek")
		s := newSealer(t, kek, envelope.SealerOptions{})
		kek.setOnWrap(func(ctx context.Context) error {
			if envelope.RequestID(ctx) != "" {
				t.Error("the wrap carries the id of a request")
			}
			time.Sleep(5 * time.Second)
			return ctx.Err()
		})
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(envelope.WithRequestID(t.Context(), "id"), 3*time.Second)
			defer cancel()
			err := s.Prepare(ctx)
			if !errors.Is(err, envelope.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want ErrUnreachable by deadline", err)
			}
			if d := time.Since(start); d != 3*time.Second {
				t.Errorf("Prepare returned after %v, want 3s", d)
			}
		})
		for range 10 {
			wg.Go(func() {
				seal(t, s, nil, nil)
				if d := time.Since(start); d != 5*time.Second {
					t.Errorf("Seal returned after %v, want 5s", d)
				}
			})
		}
		wg.Wait()
		if n := kek.wrapCalls(); n != 1 {
			t.Errorf("%d wraps, want 1", n)
		}
	})
}

// Without any DEK each Prepare is an attempt: there is no old one to go on under.
func TestPrepareRetries(t *testing.T) {
	kek := newKEK("kek")
	s := newSealer(t, kek, envelope.SealerOptions{})
	kek.setFail(&envelope.Error{Class: envelope.ErrThrottled, Op: "wrap", Key: "kek"})
	for range 2 {
		if err := s.Prepare(t.Context()); !errors.Is(err, envelope.ErrThrottled) {
			t.Errorf("%v, want ErrThrottled", err)
		}
	}
	kek.setFail(nil)
	if err := s.Prepare(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Prepare(t.Context()); err != nil || kek.wrapCalls() != 3 {
		t.Errorf("%v after %d wraps, want 3", err, kek.wrapCalls())
	}
}

// A caller that has given up already starts nothing.
func TestPrepareCancelled(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		kek := newKEK("kek")
		s := newSealer(t, kek, envelope.SealerOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Prepare(ctx); !errors.Is(err, envelope.ErrUnreachable) || !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want ErrUnreachable and context.Canceled", err)
		}
		synctest.Wait()
		if n := kek.wrapCalls(); n != 0 {
			t.Errorf("%d wraps, want none", n)
		}
	})
}

// OnNewDEK sees every DEK before any message does, and its key opens them all.
func TestOnNewDEK(t *testing.T) {
	kek := newKEK("kek")
	keys := make(map[string]*envelope.OpenKey)
	var mu sync.Mutex
	s := newSealer(t, kek, envelope.SealerOptions{OnNewDEK: func(k *envelope.OpenKey, created time.Time) {
		mu.Lock()
		defer mu.Unlock()
		keys[string(k.Header())] = k
		if created.IsZero() {
			t.Error("no date of creation")
		}
	}})
	s.SetHardLimit(10)
	for range 35 {
		header, message, err := s.SealDetached(t.Context(), []byte("secret"), nil)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		k := keys[string(header)]
		mu.Unlock()
		if k == nil {
			t.Fatal("a message under a DEK that OnNewDEK has not seen")
		}
		if p, err := k.Open(message, nil); err != nil || string(p) != "secret" {
			t.Fatalf("%q, %v", p, err)
		}
	}
	if len(keys) != 4 || kek.unwrapCalls() != 0 {
		t.Errorf("%d DEKs and %d unwraps, want 4 and 0", len(keys), kek.unwrapCalls())
	}
}

func TestClose(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		kek := newKEK("kek")
		news := 0
		s := newSealer(t, kek, envelope.SealerOptions{OnNewDEK: func(*envelope.OpenKey, time.Time) { news++ }})
		env := seal(t, s, nil, nil)
		header := s.Header()
		s.Close()
		s.Close()
		if _, err := s.Seal(t.Context(), nil, nil); !errors.Is(err, envelope.ErrInvalid) {
			t.Errorf("Seal: %v, want ErrInvalid", err)
		}
		if err := s.Prepare(t.Context()); !errors.Is(err, envelope.ErrInvalid) {
			t.Errorf("Prepare: %v, want ErrInvalid", err)
		}
		if err := s.Resume(t.Context(), kek, header, time.Now()); !errors.Is(err, envelope.ErrInvalid) {
			t.Errorf("Resume: %v, want ErrInvalid", err)
		}
		synctest.Wait()
		if s.Header() != nil || news != 1 || kek.wrapCalls() != 1 {
			t.Errorf("a closed sealer has a header, made DEKs (%d) or wrapped (%d)", news, kek.wrapCalls())
		}
		if _, err := envelope.NewOpener(kek).Open(t.Context(), env, nil); err != nil {
			t.Errorf("what it sealed: %v", err)
		}
	})
}

// Close ends a wrap that is under way, and what that would have made is not used.
func TestCloseDuringWrap(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		kek := newKEK("kek")
		s := newSealer(t, kek, envelope.SealerOptions{OnNewDEK: func(*envelope.OpenKey, time.Time) {
			t.Error("a DEK after Close")
		}})
		kek.setOnWrap(func(ctx context.Context) error { <-ctx.Done(); return nil })
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Seal(t.Context(), nil, nil); !errors.Is(err, envelope.ErrInvalid) {
				t.Errorf("%v, want ErrInvalid", err)
			}
		})
		synctest.Wait()
		s.Close()
		wg.Wait()
		if s.Header() != nil {
			t.Error("a header after Close")
		}
	})
}

func TestPlaintextTooLarge(t *testing.T) {
	if err := envelope.CheckPlaintextSize(envelope.MaxPlaintextSize); err != nil {
		t.Errorf("the largest: %v", err)
	}
	if err := envelope.CheckPlaintextSize(envelope.MaxPlaintextSize + 1); !errors.Is(err, envelope.ErrInvalid) {
		t.Errorf("one more: %v, want ErrInvalid", err)
	}
}
