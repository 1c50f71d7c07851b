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
			bubble(t, func(t *testing.T) {
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
	bubble(t, func(t *testing.T) {
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
	bubble(t, func(t *testing.T) {
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
	bubble(t, func(t *testing.T) {
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
	bubble(t, func(t *testing.T) {
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

// The first DEK: everybody waits for the same wrap, each within its own deadline,
// and the wrap outlives those who gave up.
func TestPrepareDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
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
	bubble(t, func(t *testing.T) {
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

// A renewal is held back after a failure, and no longer after a success.
func TestBackoffEndsWithSuccess(t *testing.T) {
	bubble(t, func(t *testing.T) {
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

// A Resume while a new DEK is being wrapped: OnNewDEK hears of one after the
// other, and of the one that stays in use last.
func TestOnNewDEKInOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		kek := newKEK("kek")
		earlier := newSealer(t, kek, envelope.SealerOptions{})
		seal(t, earlier, nil, nil)

		calls, running := 0, 0
		var last []byte
		s := newSealer(t, kek, envelope.SealerOptions{OnNewDEK: func(k *envelope.OpenKey, _ time.Time) {
			calls++
			if running++; running != 1 {
				t.Error("two calls at once")
			}
			last = k.Header()
			time.Sleep(time.Duration(3-calls) * time.Second) // the first takes longer
			running--
		}})
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Resume(t.Context(), kek, earlier.Header(), time.Now()); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if err := s.Prepare(t.Context()); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if calls != 2 || !bytes.Equal(last, s.Header()) {
			t.Errorf("%d calls, want 2, the last for the DEK in use", calls)
		}
	})
}

// After a restart with a KEK that unwraps only, the DEK of before goes on, is
// renewed by age as if nothing had happened, and counts its messages anew.
func TestResume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		kek := newKEK("kek")
		var header []byte
		var created time.Time
		options := envelope.SealerOptions{MaxAge: 2 * time.Hour, OnNewDEK: func(k *envelope.OpenKey, c time.Time) {
			header, created = k.Header(), c
		}}
		s := newSealer(t, kek, options)
		before := seal(t, s, []byte("before"), nil)
		s.Close()
		first, firstCreated := header, created

		time.Sleep(time.Hour)
		kek.setOnWrap(func(context.Context) error {
			return &envelope.Error{Class: envelope.ErrExpired, Op: "wrap", Key: "kek"}
		})
		header, created = nil, time.Time{}
		s = newSealer(t, kek, options)
		if err := s.Resume(t.Context(), kek, first, firstCreated); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(header, first) || !created.Equal(firstCreated) {
			t.Error("OnNewDEK was not told of the resumed DEK")
		}
		after := seal(t, s, []byte("after"), nil)
		synctest.Wait()
		if n := kek.wrapCalls(); n != 1 {
			t.Errorf("%d wraps before the DEK is old, want 1", n)
		}
		for _, env := range [][]byte{before, after} {
			if _, err := envelope.NewOpener(kek).Open(t.Context(), env, nil); err != nil {
				t.Error(err)
			}
		}
		if bytes.Equal(before[len(first):][:12], after[len(first):][:12]) {
			t.Error("the resumed DEK keeps its selector")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		seal(t, s, nil, nil) // old now, and still sealing
		synctest.Wait()
		if n := kek.wrapCalls(); n != 2 {
			t.Errorf("%d wraps after the DEK is old, want 2", n)
		}
	})
}

// Who waits for a wrap that fails in the end goes on under a DEK that was resumed
// meanwhile.
func TestResumeBesideFailingWrap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		kek := newKEK("kek")
		earlier := newSealer(t, kek, envelope.SealerOptions{})
		seal(t, earlier, nil, nil)
		kek.setOnWrap(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })

		s := newSealer(t, kek, envelope.SealerOptions{})
		var wg sync.WaitGroup
		for _, patience := range []time.Duration{time.Second, time.Hour} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			wg.Go(func() {
				if _, err := s.Seal(ctx, nil, nil); err != nil {
					t.Errorf("Seal within %v: %v", patience, err)
				}
			})
			wg.Go(func() {
				if err := s.Prepare(ctx); err != nil {
					t.Errorf("Prepare within %v: %v", patience, err)
				}
			})
		}
		synctest.Wait()
		if err := s.Resume(t.Context(), kek, earlier.Header(), time.Now()); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

// A DEK that was too old when it was resumed is renewed with the first message,
// and a date in the future is no way to make it last.
func TestResumeDates(t *testing.T) {
	for name, age := range map[string]time.Duration{"old": 48 * time.Hour, "future": -1000 * time.Hour} {
		bubble(t, func(t *testing.T) {
			kek := newKEK("kek")
			s := newSealer(t, kek, envelope.SealerOptions{})
			seal(t, s, nil, nil)
			if err := s.Resume(t.Context(), kek, s.Header(), time.Now().Add(-age)); err != nil {
				t.Fatal(err)
			}
			if age < 0 {
				time.Sleep(24 * time.Hour)
				synctest.Wait()
			}
			seal(t, s, nil, nil)
			synctest.Wait()
			if n := kek.wrapCalls(); n != 2 {
				t.Errorf("%s: %d wraps, want 2", name, n)
			}
		})
	}
}

func TestResumeRefuses(t *testing.T) {
	kek := newKEK("kek")
	s := newSealer(t, kek, envelope.SealerOptions{})
	env := seal(t, s, nil, nil)
	header := bytes.Clone(s.Header())
	bad := bytes.Clone(header)
	bad[len(bad)-1] ^= 1
	for name, test := range map[string]struct {
		u      envelope.Unwrapper
		header []byte
		want   error
	}{
		"another key": {newKEK("other"), header, envelope.ErrUnknownKey},
		"bad tag":     {kek, bad, envelope.ErrCorrupt},
		"an envelope": {kek, env, envelope.ErrCorrupt},
		"nothing":     {kek, nil, envelope.ErrCorrupt},
	} {
		if err := s.Resume(t.Context(), test.u, test.header, time.Now()); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if !bytes.Equal(s.Header(), header) {
		t.Error("a refused Resume changed the DEK")
	}
}

func TestClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
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
	bubble(t, func(t *testing.T) {
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
