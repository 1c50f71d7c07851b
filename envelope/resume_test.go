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

// A Resume while a new DEK is being wrapped: OnNewDEK hears of one after the
// other, and of the one that stays in use last.
func TestOnNewDEKInOrder(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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
		bubble.Test(t, func(t *testing.T) {
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
