package envelope_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/internal/bubble"
)

func newRewrapper(t *testing.T, u envelope.Unwrapper, targets ...envelope.Wrapper) *envelope.Rewrapper {
	t.Helper()
	r, err := envelope.NewRewrapper(u, targets...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestNewRewrapper(t *testing.T) {
	kek := newKEK("kek")
	many := make([]envelope.Wrapper, envelope.MaxWraps+1)
	for i := range many {
		many[i] = newKEK(string(rune('a' + i)))
	}
	for name, targets := range map[string][]envelope.Wrapper{"none": nil, "nil": {kek, nil}, "too many": many} {
		if _, err := envelope.NewRewrapper(kek, targets...); !errors.Is(err, envelope.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if _, err := envelope.NewRewrapper(nil, kek); !errors.Is(err, envelope.ErrInvalid) {
		t.Errorf("no unwrapper: %v, want ErrInvalid", err)
	}
}

// Envelopes of one DEK: the messages stay, the header is the same new one for
// all, and the work is one unwrap and one wrap.
func TestRewrapManyOfOneDEK(t *testing.T) {
	old, target := newKEK("old"), newKEK("new")
	s := newSealer(t, old, envelope.SealerOptions{})
	r := newRewrapper(t, old, target)
	var envs [][]byte
	for range 50 {
		envs = append(envs, seal(t, s, []byte("secret"), []byte("aad")))
	}
	got := make([][]byte, len(envs))
	var wg sync.WaitGroup
	for i, env := range envs {
		wg.Go(func() {
			var err error
			if got[i], err = r.Rewrap(t.Context(), env); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if old.unwrapCalls() != 1 || target.wrapCalls() != 1 {
		t.Errorf("%d unwraps and %d wraps, want 1 and 1", old.unwrapCalls(), target.wrapCalls())
	}
	oldHeader, _, _ := envelope.Split(envs[0])
	newHeader, _, _ := envelope.Split(got[0])
	before, _, _ := envelope.Inspect(oldHeader)
	after, _, _ := envelope.Inspect(newHeader)
	if after.DEKID != before.DEKID || len(after.Wraps) != 1 || after.Wraps[0].KeyID != "new" {
		t.Errorf("new header %+v of old %+v", after, before)
	}
	for i, env := range got {
		h, m, err := envelope.Split(env)
		if err != nil || !bytes.Equal(h, newHeader) || !bytes.Equal(m, envs[i][len(oldHeader):]) {
			t.Fatalf("envelope %d: another header or message, %v", i, err)
		}
		if p, err := envelope.NewOpener(target).Open(t.Context(), env, []byte("aad")); err != nil || string(p) != "secret" {
			t.Errorf("%q, %v", p, err)
		}
		if _, err := envelope.NewOpener(old).Open(t.Context(), env, []byte("aad")); !errors.Is(err, envelope.ErrUnknownKey) {
			t.Errorf("under the old key: %v, want ErrUnknownKey", err)
		}
	}
	detached, err := r.Rewrap(t.Context(), oldHeader)
	if err != nil || !bytes.Equal(detached, newHeader) {
		t.Errorf("the detached header becomes %x, %v", detached, err)
	}
	// The caller owns what it gets.
	clear(detached)
	if again, err := r.Rewrap(t.Context(), oldHeader); err != nil || !bytes.Equal(again, newHeader) {
		t.Errorf("after a caller changed its copy: %x, %v", again, err)
	}
}

// Different old headers of one DEK become the same new one too: those that were
// rewrapped before, to whatever, do not multiply.
func TestRewrapDifferentHeadersOfOneDEK(t *testing.T) {
	a, b, c := newKEK("a"), newKEK("b"), newKEK("c")
	env := seal(t, newSealer(t, a, envelope.SealerOptions{}), []byte("secret"), nil)
	env2, err := newRewrapper(t, a, b).Rewrap(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	r := newRewrapper(t, keyring{a, b, c}, c)
	var got [3][]byte
	for i, e := range [][]byte{env, env2, env} {
		if got[i], err = r.Rewrap(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got[0], got[1]) || !bytes.Equal(got[0], got[2]) {
		t.Error("one DEK, several new headers")
	}
	if n := c.wrapCalls(); n != 1 {
		t.Errorf("%d wraps, want 1", n)
	}
	if b.unwrapCalls() != 1 {
		t.Error("the second header was taken for the first without verifying it")
	}
}

// A DEK id proves nothing. Another DEK under the same id, which anybody with a
// public key can make, gets a header of its own.
func TestRewrapSameIDOtherDEK(t *testing.T) {
	old, target := newKEK("old"), newKEK("new")
	r := newRewrapper(t, old, target)
	var headers [2][]byte
	for i := range headers {
		h, err := envelope.WrapHeader(t.Context(), random(envelope.DEKSize), [16]byte{1}, old)
		if err != nil {
			t.Fatal(err)
		}
		if headers[i], err = r.Rewrap(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	if bytes.Equal(headers[0], headers[1]) {
		t.Error("two DEKs, one header")
	}
}

func TestRewrapRefuses(t *testing.T) {
	old, target := newKEK("old"), newKEK("new")
	env := seal(t, newSealer(t, old, envelope.SealerOptions{}), []byte("secret"), nil)
	header, _, _ := envelope.Split(env)
	flipped := bytes.Clone(env)
	flipped[len(header)-1] ^= 1
	for name, test := range map[string]struct {
		u    envelope.Unwrapper
		env  []byte
		want error
	}{
		"unverified header": {old, flipped, envelope.ErrCorrupt},
		"unknown key":       {target, env, envelope.ErrUnknownKey},
		"short message":     {old, env[:len(header)+1], envelope.ErrCorrupt},
		"nothing":           {old, nil, envelope.ErrCorrupt},
	} {
		if b, err := newRewrapper(t, test.u, target).Rewrap(t.Context(), test.env); b != nil || !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if n := target.wrapCalls(); n != 0 {
		t.Errorf("%d wraps of what was refused", n)
	}
	if _, err := newRewrapper(t, old, target, target).Rewrap(t.Context(), env); !errors.Is(err, envelope.ErrInvalid) {
		t.Errorf("one target twice: %v, want ErrInvalid", err)
	}
}

// A failure is not remembered, and who waits for somebody else's attempt makes
// one of its own when that fails.
func TestRewrapFailure(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		old, target := newKEK("old"), newKEK("new")
		env := seal(t, newSealer(t, old, envelope.SealerOptions{}), nil, nil)
		r := newRewrapper(t, old, target)
		target.setOnWrap(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		leader, cancelLeader := context.WithCancel(t.Context())
		waiter, cancelWaiter := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := r.Rewrap(leader, env); !errors.Is(err, context.Canceled) {
				t.Errorf("leader: %v, want context.Canceled", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if _, err := r.Rewrap(waiter, env); !errors.Is(err, envelope.ErrUnreachable) {
				t.Errorf("waiter: %v, want ErrUnreachable", err)
			}
		})
		wg.Go(func() {
			if _, err := r.Rewrap(t.Context(), env); err != nil {
				t.Errorf("follower: %v", err)
			}
		})
		synctest.Wait()
		cancelWaiter()
		synctest.Wait()
		target.setOnWrap(nil)
		cancelLeader()
		wg.Wait()
		if n := target.wrapCalls(); n != 2 {
			t.Errorf("%d wraps, want the leader's and the follower's", n)
		}
	})
}

// A back end that panics leaves nobody waiting.
func TestRewrapPanic(t *testing.T) {
	old, target := newKEK("old"), newKEK("new")
	env := seal(t, newSealer(t, old, envelope.SealerOptions{}), nil, nil)
	r := newRewrapper(t, old, target)
	target.setOnWrap(func(context.Context) error { panic("broken back end") })
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		r.Rewrap(t.Context(), env)
	}()
	target.setOnWrap(nil)
	again, err := r.Rewrap(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := envelope.NewOpener(target).Open(t.Context(), again, nil); err != nil {
		t.Errorf("rewrapped after the panic: %v", err)
	}
}

// The memory is bounded; what fell out of it is done again.
func TestRewrapMemory(t *testing.T) {
	old, target := newKEK("old"), newKEK("new")
	r := newRewrapper(t, old, target)
	header := func(i int) []byte {
		h, err := envelope.WrapHeader(t.Context(), bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 16), [16]byte{}, old)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	first := header(0)
	for i := range envelope.RewrapMemory + 1 {
		h := first
		if i > 0 {
			h = header(i)
		}
		if _, err := r.Rewrap(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	before := old.unwrapCalls()
	if _, err := r.Rewrap(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if old.unwrapCalls() != before+1 {
		t.Error("the oldest header is still remembered")
	}
}
