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

// Each soft limit renews the DEK in the background, on either side of the limit.
func TestSoftLimits(t *testing.T) {
	for _, test := range []struct {
		name   string
		limits envelope.SealerOptions
		seals  int // that stay below the limit
		size   int
		wait   time.Duration // before the seal that reaches it
	}{
		{"messages", envelope.SealerOptions{MaxMessages: 5}, 4, 10, 0},
		{"bytes", envelope.SealerOptions{MaxBytes: 100}, 9, 11, 0},
		{"age", envelope.SealerOptions{MaxAge: time.Hour}, 3, 10, time.Hour},
		{"age by default", envelope.SealerOptions{}, 3, 10, 24 * time.Hour},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				kek := newKEK("kek")
				s := newSealer(t, kek, test.limits)
				var first []byte
				for range test.seals {
					seal(t, s, make([]byte, test.size), nil)
					synctest.Wait()
					first = s.Header()
				}
				if n := kek.wrapCalls(); n != 1 {
					t.Fatalf("%d wraps below the limit, want 1", n)
				}
				time.Sleep(test.wait)
				synctest.Wait() // for the timer of this very instant
				env := seal(t, s, make([]byte, test.size), nil)
				if !bytes.HasPrefix(env, first) {
					t.Error("the message that reaches the limit did not go under the DEK at hand")
				}
				synctest.Wait()
				if n := kek.wrapCalls(); n != 2 || bytes.Equal(s.Header(), first) {
					t.Errorf("%d wraps after the limit, want 2 and a new header", n)
				}
			})
		})
	}
}

// An injected clock counts for age, whatever the timers of the machine say.
func TestInjectedClock(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		kek := newKEK("kek")
		var created []time.Time
		s := newSealer(t, kek, envelope.SealerOptions{
			Now:      func() time.Time { return now },
			OnNewDEK: func(_ *envelope.OpenKey, c time.Time) { created = append(created, c) },
		})
		seal(t, s, nil, nil)
		now = now.Add(24*time.Hour - 1)
		seal(t, s, nil, nil)
		synctest.Wait()
		if n := kek.wrapCalls(); n != 1 {
			t.Fatalf("%d wraps before 24 hours, want 1", n)
		}
		now = now.Add(1)
		if err := s.Prepare(t.Context()); err != nil { // which renews as Seal does
			t.Fatal(err)
		}
		synctest.Wait()
		if len(created) != 2 || created[1].Sub(created[0]) != 24*time.Hour {
			t.Errorf("created %v, want two, 24 hours apart", created)
		}
	})
}

// While the KEK cannot wrap, Seal goes on under the old DEK, without waiting, and
// asks the KEK again every ten seconds only.
func TestRenewalFailure(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		kek := newKEK("kek")
		s := newSealer(t, kek, envelope.SealerOptions{MaxMessages: 1})
		if err := s.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		first := s.Header()
		kek.setFail(&envelope.Error{Class: envelope.ErrExpired, Op: "wrap", Key: "kek"})
		start := time.Now()
		for range 60 { // one minute, a seal each second
			seal(t, s, nil, nil)
			synctest.Wait()
			time.Sleep(time.Second)
		}
		if n := kek.wrapCalls() - 1; n != 6 {
			t.Errorf("%d attempts to renew in a minute, want 6", n)
		}
		if !bytes.Equal(s.Header(), first) {
			t.Error("another header without a wrap")
		}
		if d := time.Since(start); d != time.Minute {
			t.Errorf("sealing waited: %v for a minute's work", d)
		}
		kek.setFail(nil)
		time.Sleep(10 * time.Second)
		seal(t, s, nil, nil)
		synctest.Wait()
		if bytes.Equal(s.Header(), first) {
			t.Error("no renewal after the KEK came back")
		}
	})
}

// A KEK that hangs holds nobody up, is not asked twice at once, and is given up
// after ten seconds.
func TestRenewalHangs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		kek := newKEK("kek")
		s := newSealer(t, kek, envelope.SealerOptions{MaxMessages: 1})
		if err := s.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until the renewal that Prepare waited for has let go
		var gaveUp time.Duration
		start := time.Now()
		kek.setOnWrap(func(ctx context.Context) error {
			if envelope.RequestID(ctx) != "" {
				t.Error("a renewal carries the id of a request")
			}
			<-ctx.Done()
			gaveUp = time.Since(start)
			return ctx.Err()
		})
		ctx := envelope.WithRequestID(t.Context(), "id")
		for range 100 {
			if _, err := s.Seal(ctx, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("sealing waited %v", d)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if n := kek.wrapCalls() - 1; n != 1 || gaveUp != 10*time.Second {
			t.Errorf("%d attempts, given up after %v; want 1 after 10s", n, gaveUp)
		}
	})
}

// At the hard limit sealing stops until a wrap succeeds; the KEK is still not
// hammered.
func TestHardLimit(t *testing.T) {
	if envelope.HardMaxMessages != 1<<28 {
		t.Fatalf("the hard limit is %d", envelope.HardMaxMessages)
	}
	bubble.Test(t, func(t *testing.T) {
		kek := newKEK("kek")
		s := newSealer(t, kek, envelope.SealerOptions{MaxMessages: 2})
		s.SetHardLimit(5)
		if err := s.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		first := s.Header()
		kek.setFail(&envelope.Error{Class: envelope.ErrUnreachable, Op: "wrap", Key: "kek"})
		for range 5 {
			if env := seal(t, s, nil, nil); !bytes.HasPrefix(env, first) {
				t.Fatal("another header without a wrap")
			}
			synctest.Wait()
		}
		for range 100 {
			if env, err := s.Seal(t.Context(), nil, nil); env != nil || !errors.Is(err, envelope.ErrUnreachable) {
				t.Fatalf("a message beyond the hard limit: %v, want ErrUnreachable", err)
			}
			if err := s.Prepare(t.Context()); !errors.Is(err, envelope.ErrUnreachable) {
				t.Fatalf("Prepare at the hard limit: %v, want ErrUnreachable", err)
			}
		}
		if n := kek.wrapCalls() - 1; n != 1 {
			t.Errorf("%d attempts within ten seconds, want 1", n)
		}
		kek.setFail(nil)
		time.Sleep(10 * time.Second)
		if env := seal(t, s, nil, nil); bytes.HasPrefix(env, first) {
			t.Error("the spent DEK sealed again")
		}
	})
}

// Many who reach the hard limit at once all go on under one new DEK, and no DEK
// ever seals more than its limit.
func TestHardLimitConcurrent(t *testing.T) {
	kek := newKEK("kek")
	s := newSealer(t, kek, envelope.SealerOptions{})
	s.SetHardLimit(50)
	var mu sync.Mutex
	messages := make(map[string]int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				header, _, err := s.SealDetached(t.Context(), nil, nil)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				messages[string(header)]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	total := 0
	for _, n := range messages {
		total += n
		if n > 50 {
			t.Errorf("%d messages under one DEK, more than 50", n)
		}
	}
	if total != 800 || len(messages) < 16 || len(messages) != kek.wrapCalls() {
		t.Errorf("%d messages under %d DEKs and %d wraps", total, len(messages), kek.wrapCalls())
	}
}

// A renewal is held back after a failure, and no longer after a success.
func TestBackoffEndsWithSuccess(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		kek := newKEK("kek")
		s := newSealer(t, kek, envelope.SealerOptions{MaxMessages: 1})
		kek.setFail(envelope.ErrUnreachable)
		if err := s.Prepare(t.Context()); !errors.Is(err, envelope.ErrUnreachable) {
			t.Fatalf("%v, want ErrUnreachable", err)
		}
		kek.setFail(nil)
		if err := s.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		seal(t, s, nil, nil)
		synctest.Wait()
		if n := kek.wrapCalls(); n != 3 {
			t.Errorf("%d wraps, want the failed one, the first DEK's and its renewal's", n)
		}
	})
}
