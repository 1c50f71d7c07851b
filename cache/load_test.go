package cache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyfold/keyfold/cache"
	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/internal/bubble"
)

func TestSingleFlight(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		kek := newFakeKEK("k")
		c := newCache(t, kek, cache.Options{})
		s := kek.seal(t)
		kek.disturb(func(context.Context) error { time.Sleep(time.Second); return nil })
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { mustOpen(t, c, s) })
		}
		wg.Wait()
		wantUnwraps(t, kek, 1)
		if s := c.Stats(); s.Misses != 50 || s.Loads != 1 {
			t.Errorf("%+v, want 50 misses and one load", s)
		}
	})
}

// The first caller leaves; the call that it began goes on under its request id, for
// the others and for the next.
func TestCallerGivesUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		kek := newFakeKEK("k")
		c := newCache(t, kek, cache.Options{})
		s := kek.seal(t)
		var seen string
		kek.disturb(func(ctx context.Context) error {
			seen = envelope.RequestID(ctx)
			select {
			case <-time.After(5 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		first, cancel := context.WithTimeout(envelope.WithRequestID(t.Context(), "req-1"), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			start := time.Now()
			_, err := c.OpenKey(first, s.header)
			wantClass(t, err, envelope.ErrUnreachable)
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				t.Errorf("after %v: %v", time.Since(start), err)
			}
		})
		synctest.Wait()
		wg.Go(func() { mustOpen(t, c, s) })
		wg.Wait()
		if seen != "req-1" {
			t.Errorf("the KEK saw request id %q", seen)
		}
		mustOpen(t, c, s)
		wantUnwraps(t, kek, 1)
	})
}

func TestEverybodyGivesUpAndTheResultIsKept(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		kek := newFakeKEK("k")
		c := newCache(t, kek, cache.Options{})
		s := kek.seal(t)
		kek.disturb(func(ctx context.Context) error {
			select {
			case <-time.After(5 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.OpenKey(ctx, s.header)
		wantClass(t, err, envelope.ErrUnreachable)
		mustOpen(t, c, s) // joins the same load
		wantUnwraps(t, kek, 1)
		time.Sleep(5 * time.Second)
		mustOpen(t, c, s)
		wantUnwraps(t, kek, 1)
	})
}

func TestContextAlreadyEnded(t *testing.T) {
	kek := newFakeKEK("k")
	c := newCache(t, kek, cache.Options{})
	s := kek.seal(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.OpenKey(ctx, s.header)
	wantClass(t, err, envelope.ErrUnreachable)
	wantUnwraps(t, kek, 0)
}

// A load that hangs ends by itself, and is tried anew afterwards.
func TestLoadIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		kek := newFakeKEK("k")
		c := newCache(t, kek, cache.Options{})
		s := kek.seal(t)
		kek.disturb(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		start := time.Now()
		_, err := c.OpenKey(t.Context(), s.header)
		wantClass(t, err, envelope.ErrUnreachable)
		if took := time.Since(start); took > time.Minute {
			t.Errorf("it took %v", took)
		}
		kek.disturb(nil)
		mustOpen(t, c, s)
	})
}

func TestLoadsAtOnceAreBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		kek := newFakeKEK("k")
		c := newCache(t, kek, cache.Options{})
		var now, most atomic.Int64
		kek.disturb(func(context.Context) error {
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Second)
			return nil
		})
		var all []sealed
		for range 200 {
			all = append(all, kek.seal(t))
		}
		var wg sync.WaitGroup
		for _, s := range all {
			wg.Go(func() { mustOpen(t, c, s) })
		}
		wg.Wait()
		if m := most.Load(); m < 2 || m > 64 {
			t.Errorf("%d unwraps at once, want at most 64", m)
		}
		wantUnwraps(t, kek, 200)
	})
}

// What nobody waits for any more, and has not begun, is not begun.
func TestQueuedLoadsAreCalledOff(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		kek := newFakeKEK("k")
		c := newCache(t, kek, cache.Options{})
		kek.disturb(func(context.Context) error { time.Sleep(10 * time.Second); return nil })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var all []sealed
		for range 200 {
			all = append(all, kek.seal(t))
		}
		var wg sync.WaitGroup
		for _, s := range all {
			wg.Go(func() {
				_, err := c.OpenKey(ctx, s.header)
				wantClass(t, err, envelope.ErrUnreachable)
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
		wantUnwraps(t, kek, 64)
		kek.disturb(nil)
		for _, s := range all {
			mustOpen(t, c, s)
		}
		wantUnwraps(t, kek, 200)
	})
}

func TestFailureMemory(t *testing.T) {
	for _, tt := range []struct {
		err        error
		remembered bool
	}{
		{envelope.ErrCorrupt, true},
		{envelope.ErrUnknownKey, true},
		{envelope.ErrRevoked, true},
		{envelope.ErrDisabled, true},
		{envelope.ErrDeleted, true},
		{envelope.ErrUnreachable, false},
		{envelope.ErrThrottled, false},
		{envelope.ErrUnauthenticated, false},
		{envelope.ErrForbidden, false},
		{context.DeadlineExceeded, false},
		{errors.New("whatever"), false},
		{&envelope.Error{Class: envelope.ErrCorrupt, Err: envelope.ErrThrottled}, false},
	} {
		t.Run(fmt.Sprint(tt.err), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				kek, g := newFakeKEK("k"), newGate()
				c := newCache(t, kek, cache.Options{Gate: g, FailureTTL: 10 * time.Second})
				s := kek.seal(t)
				kek.disturb(func(context.Context) error { return tt.err })
				for range 5 {
					if _, err := c.OpenKey(t.Context(), s.header); !errors.Is(err, tt.err) {
						t.Fatalf("error %v", err)
					}
					time.Sleep(time.Second)
				}
				calls := int64(5)
				if tt.remembered {
					calls = 1
				}
				wantUnwraps(t, kek, calls)

				kek.disturb(nil)
				if tt.remembered {
					_, err := c.OpenKey(t.Context(), s.header)
					wantClass(t, err, tt.err)
					time.Sleep(5 * time.Second)
				}
				mustOpen(t, c, s)
				wantUnwraps(t, kek, calls+1)
				if s := c.Stats(); s.Failures != uint64(calls) {
					t.Errorf("%+v, want %d failures", s, calls)
				}
			})
		})
	}
}

func TestFailureDoesNotOutliveTheGatesGeneration(t *testing.T) {
	kek, g := newFakeKEK("k"), newGate()
	c := newCache(t, kek, cache.Options{Gate: g})
	s := kek.seal(t)
	kek.disturb(func(context.Context) error { return envelope.ErrUnknownKey })
	_, err := c.OpenKey(t.Context(), s.header)
	wantClass(t, err, envelope.ErrUnknownKey)

	// The generation changes while the KEK fails: that failure is of yesterday.
	kek.disturb(func(context.Context) error { g.set(); return envelope.ErrUnknownKey })
	g.set()
	_, err = c.OpenKey(t.Context(), s.header)
	wantClass(t, err, envelope.ErrUnknownKey)

	kek.disturb(nil)
	mustOpen(t, c, s)
	wantUnwraps(t, kek, 3)
}

// A failure answers for its own header only: not for another of the same DEK.
func TestForgedHeaderDoesNotSpeakForTheGoodOne(t *testing.T) {
	kek := newFakeKEK("k")
	c := newCache(t, kek, cache.Options{})
	s := kek.seal(t)
	for _, i := range []int{40, len(s.header) - 1} {
		forged := slices.Clone(s.header)
		forged[i] ^= 1
		_, err := c.OpenKey(t.Context(), forged)
		wantClass(t, err, envelope.ErrCorrupt)
	}
	mustOpen(t, c, s)
}

func TestPurgeDuringALoad(t *testing.T) {
	kek := newFakeKEK("k")
	c := newCache(t, kek, cache.Options{})
	s := kek.seal(t)
	kek.disturb(func(context.Context) error { c.Purge(); return nil })
	mustOpen(t, c, s)
	if got := c.Stats().Entries; got != 0 {
		t.Fatalf("%d entries: a load that began before the purge was stored", got)
	}
}

// A KEK that panics must not take the process with it where the server can recover.
func TestPanicReachesTheCaller(t *testing.T) {
	kek := newFakeKEK("k")
	c := newCache(t, kek, cache.Options{})
	s := kek.seal(t)
	kek.disturb(func(context.Context) error { panic("the token fell out") })
	func() {
		defer func() {
			if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "the token fell out") {
				t.Errorf("recovered %v", r)
			}
		}()
		_, err := c.OpenKey(t.Context(), s.header)
		t.Errorf("OpenKey returned %v", err)
	}()
	kek.disturb(nil)
	mustOpen(t, c, s)
}
