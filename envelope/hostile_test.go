package envelope_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

func newSealer(t testing.TB, w envelope.Wrapper, o envelope.SealerOptions) *envelope.Sealer {
	t.Helper()
	s, err := envelope.NewSealer(w, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func seal(t testing.TB, s *envelope.Sealer, plaintext, aad []byte) []byte {
	t.Helper()
	env, err := s.Seal(t.Context(), plaintext, aad)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// Every byte of an envelope is authenticated, each bit of it and in either
// layout. A changed byte of a key id may make the key unknown instead.
func TestEveryByteFlipped(t *testing.T) {
	kek := newKEK("kek")
	plaintext, aad := []byte("attack at dawn"), []byte("aad")
	env := seal(t, newSealer(t, kek, envelope.SealerOptions{}), plaintext, aad)
	header, message, err := envelope.Split(env)
	if err != nil {
		t.Fatal(err)
	}
	key, err := envelope.OpenHeader(t.Context(), kek, header)
	if err != nil {
		t.Fatal(err)
	}
	opener := envelope.NewOpener(kek)
	for i := range env {
		for bit := range 8 {
			bad := bytes.Clone(env)
			bad[i] ^= 1 << bit
			p, err := opener.Open(t.Context(), bad, aad)
			checkRefused(t, i, p, err)
			p, err = opener.OpenDetached(t.Context(), bad[:len(header)], bad[len(header):], aad)
			checkRefused(t, i, p, err)
			if i >= len(header) {
				p, err := key.Open(bad[len(header):], aad)
				checkRefused(t, i, p, err)
			}
		}
	}
	if p, err := key.Open(message, aad); err != nil || !bytes.Equal(p, plaintext) {
		t.Errorf("the true message no longer opens: %q, %v", p, err)
	}
}

func checkRefused(t *testing.T, i int, p []byte, err error) {
	t.Helper()
	if p != nil || !errors.Is(err, envelope.ErrCorrupt) && !errors.Is(err, envelope.ErrUnknownKey) {
		t.Fatalf("byte %d: %q, %v; want ErrCorrupt or ErrUnknownKey", i, p, err)
	}
}

func TestEveryTruncation(t *testing.T) {
	kek := newKEK("kek")
	env := seal(t, newSealer(t, kek, envelope.SealerOptions{}), []byte("attack at dawn"), nil)
	header, message, _ := envelope.Split(env)
	opener := envelope.NewOpener(kek)
	for n := range env {
		if p, err := opener.Open(t.Context(), env[:n], nil); p != nil || !errors.Is(err, envelope.ErrCorrupt) {
			t.Fatalf("cut to %d bytes: %q, %v; want ErrCorrupt", n, p, err)
		}
	}
	for n := range header {
		if p, err := opener.OpenDetached(t.Context(), header[:n], message, nil); p != nil || !errors.Is(err, envelope.ErrCorrupt) {
			t.Fatalf("header cut to %d bytes: %q, %v; want ErrCorrupt", n, p, err)
		}
	}
	before := kek.unwrapCalls()
	for n := range envelope.MessageOverhead {
		if p, err := opener.OpenDetached(t.Context(), header, message[:n], nil); p != nil || !errors.Is(err, envelope.ErrCorrupt) {
			t.Fatalf("message cut to %d bytes: %q, %v; want ErrCorrupt", n, p, err)
		}
	}
	if n := kek.unwrapCalls() - before; n != 0 {
		t.Errorf("%d unwraps for messages that are too short", n)
	}
	key, err := envelope.OpenHeader(t.Context(), kek, header)
	if err != nil {
		t.Fatal(err)
	}
	for n := range message {
		p, err := key.Open(message[:n], nil)
		checkRefused(t, n, p, err)
		p, err = key.AppendOpen(nil, message[:n], nil)
		checkRefused(t, n, p, err)
	}
	longer := append(bytes.Clone(header), 0)
	if _, err := opener.OpenDetached(t.Context(), longer, message, nil); !errors.Is(err, envelope.ErrCorrupt) {
		t.Errorf("a byte after the detached header: %v, want ErrCorrupt", err)
	}
}

// A length that lies costs no memory, and neither does much data behind a header.
func TestNoLargeAllocation(t *testing.T) {
	kek := newKEK("kek")
	opener := envelope.NewOpener(kek)
	huge := make([]byte, 64<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, header := range [][]byte{withLength(65535), withCount(255), encode(validHeader())} {
		copy(huge, header)
		if _, err := envelope.OpenHeader(t.Context(), kek, huge); !errors.Is(err, envelope.ErrCorrupt) {
			t.Errorf("OpenHeader: %v, want ErrCorrupt", err)
		}
		if _, err := opener.OpenDetached(t.Context(), huge, huge[:envelope.MessageOverhead], nil); !errors.Is(err, envelope.ErrCorrupt) {
			t.Errorf("OpenDetached: %v, want ErrCorrupt", err)
		}
	}
	copy(huge, withLength(65535))
	if _, err := opener.Open(t.Context(), huge, nil); !errors.Is(err, envelope.ErrCorrupt) {
		t.Errorf("Open: %v, want ErrCorrupt", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes allocated on malformed input", n)
	}
	if n := kek.unwrapCalls(); n != 0 {
		t.Errorf("%d unwraps of malformed input", n)
	}
}

func TestSizes(t *testing.T) {
	kek := newKEK("kek")
	s := newSealer(t, kek, envelope.SealerOptions{})
	opener := envelope.NewOpener(kek)
	for _, size := range []int{0, 1, 15, 16, 17, 1023, 1024, 1 << 20} {
		plaintext, aad := random(size), random(size)
		env := seal(t, s, plaintext, aad)
		if want := len(s.Header()) + size + envelope.MessageOverhead; len(env) != want {
			t.Errorf("%d bytes seal to %d, want %d", size, len(env), want)
		}
		p, err := opener.Open(t.Context(), env, aad)
		if err != nil || !bytes.Equal(p, plaintext) || p == nil {
			t.Errorf("%d bytes: opened to %d bytes, %v", size, len(p), err)
		}
		dst := []byte("before ")
		p, err = opener.AppendOpen(t.Context(), dst, env, aad)
		if err != nil || !bytes.Equal(p, append([]byte("before "), plaintext...)) {
			t.Errorf("%d bytes: appended to %d bytes, %v", size, len(p), err)
		}
	}
}

func TestWrongAssociatedData(t *testing.T) {
	kek := newKEK("kek")
	s := newSealer(t, kek, envelope.SealerOptions{})
	opener := envelope.NewOpener(kek)
	for _, aads := range [][2][]byte{
		{nil, []byte("x")}, {[]byte("x"), nil}, {[]byte("x"), []byte("y")}, {[]byte("x"), []byte("xx")}, {[]byte("xx"), []byte("x")},
	} {
		env := seal(t, s, []byte("secret"), aads[0])
		if p, err := opener.Open(t.Context(), env, aads[1]); p != nil || !errors.Is(err, envelope.ErrCorrupt) {
			t.Errorf("sealed with %q, opened with %q: %q, %v", aads[0], aads[1], p, err)
		}
	}
	// Absent and empty are the same thing.
	env := seal(t, s, []byte("secret"), nil)
	if p, err := opener.Open(t.Context(), env, []byte{}); err != nil || string(p) != "secret" {
		t.Errorf("empty associated data for nil: %q, %v", p, err)
	}
}

// A failed AppendOpen leaves no plaintext behind in the room it was given.
func TestNoPlaintextAfterFailure(t *testing.T) {
	kek := newKEK("kek")
	plaintext := bytes.Repeat([]byte("secret"), 100)
	env := seal(t, newSealer(t, kek, envelope.SealerOptions{}), plaintext, nil)
	env[len(env)-1] ^= 1
	dst := make([]byte, 0, 2048)
	if _, err := envelope.NewOpener(kek).AppendOpen(t.Context(), dst, env, nil); !errors.Is(err, envelope.ErrCorrupt) {
		t.Fatalf("%v, want ErrCorrupt", err)
	}
	if bytes.Contains(dst[:cap(dst)], []byte("secret")) {
		t.Error("unauthenticated plaintext is left in the destination")
	}
}

// Callers go on using the bytes they pass in.
func TestInputsUntouched(t *testing.T) {
	kek := newKEK("kek")
	s := newSealer(t, kek, envelope.SealerOptions{})
	opener := envelope.NewOpener(kek)
	plaintext, aad := random(100), random(100)
	p, a := bytes.Clone(plaintext), bytes.Clone(aad)
	env := seal(t, s, p, a)
	e := bytes.Clone(env)
	if _, err := opener.Open(t.Context(), e, a); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p, plaintext) || !bytes.Equal(a, aad) || !bytes.Equal(e, env) {
		t.Error("an input was changed")
	}
	header, _, err := s.SealDetached(t.Context(), p, a)
	if err != nil {
		t.Fatal(err)
	}
	clear(header)
	if got := seal(t, s, p, a)[:len(header)]; bytes.Equal(got, header) {
		t.Error("SealDetached gives out the sealer's own header to change")
	}
}

// The views of a header that are given out have no room behind them: two callers
// who append to them do not write over each other.
func TestHeadersHaveNoRoom(t *testing.T) {
	kek := newKEK("kek")
	var key *envelope.OpenKey
	s := newSealer(t, kek, envelope.SealerOptions{OnNewDEK: func(k *envelope.OpenKey, _ time.Time) { key = k }})
	seal(t, s, nil, nil)
	made, own := s.Header(), key.Header()
	if err := s.Resume(t.Context(), kek, made, time.Now()); err != nil {
		t.Fatal(err)
	}
	opened, err := envelope.OpenHeader(t.Context(), kek, made)
	if err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string][]byte{
		"Sealer, new DEK": made, "Sealer, resumed": s.Header(), "OnNewDEK": own, "OpenHeader": opened.Header(),
	} {
		if cap(h) != len(h) {
			t.Errorf("%s: %d bytes of room", name, cap(h)-len(h))
		}
	}
}

// An Unwrapper that breaks its contract and returns the very bytes it was given
// gets those wiped, and not the header that the key keeps.
func TestUnwrapperReturnsItsInput(t *testing.T) {
	header, err := envelope.WrapHeader(t.Context(), random(envelope.DEKSize), [16]byte{}, wrapFunc(
		func(_ context.Context, dek []byte) (envelope.WrappedKey, error) {
			return envelope.WrappedKey{KeyID: "k", Algorithm: "none", Blob: dek}, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	given := bytes.Clone(header)
	u := unwrapFunc(func(_ context.Context, w envelope.WrappedKey) ([]byte, error) { return w.Blob, nil })
	key, err := envelope.OpenHeader(t.Context(), u, given)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newRewrapper(t, u, newKEK("kek")).Rewrap(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key.Header(), header) || !bytes.Equal(given, header) {
		t.Error("a header was wiped with the DEK")
	}
}

// unwrapFunc is an Unwrapper that answers as a test says.
type unwrapFunc func(context.Context, envelope.WrappedKey) ([]byte, error)

func (f unwrapFunc) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	return f(ctx, w)
}

// A DEK of another length, or another DEK, never passes, and is wiped.
func TestWrongDEK(t *testing.T) {
	env := seal(t, newSealer(t, newKEK("kek"), envelope.SealerOptions{}), []byte("secret"), nil)
	for _, size := range []int{0, 1, 16, 31, 32, 33, 64} {
		dek := bytes.Repeat([]byte{0xAA}, size)
		opener := envelope.NewOpener(unwrapFunc(func(context.Context, envelope.WrappedKey) ([]byte, error) { return dek, nil }))
		if p, err := opener.Open(t.Context(), env, nil); p != nil || !errors.Is(err, envelope.ErrCorrupt) {
			t.Errorf("a DEK of %d bytes: %q, %v; want ErrCorrupt", size, p, err)
		}
		if bytes.Contains(dek, []byte{0xAA}) {
			t.Errorf("a DEK of %d bytes is not wiped", size)
		}
	}
}

// The DEK that an Unwrapper returns is wiped after derivation, and the one that a
// Wrapper is given as soon as it is wrapped.
func TestDEKWiped(t *testing.T) {
	kek := newKEK("kek")
	var seen [][]byte
	s := newSealer(t, wrapFunc(func(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
		seen = append(seen, dek)
		return kek.Wrap(ctx, dek)
	}), envelope.SealerOptions{})
	u := unwrapFunc(func(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
		dek, err := kek.Unwrap(ctx, w)
		seen = append(seen, dek)
		return dek, err
	})
	env := seal(t, s, []byte("secret"), nil)
	if _, err := envelope.NewOpener(u).Open(t.Context(), env, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Resume(t.Context(), u, s.Header(), time.Now()); err != nil {
		t.Fatal(err)
	}
	r, err := envelope.NewRewrapper(u, kek)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Rewrap(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 4 {
		t.Fatalf("%d DEKs seen, want 4", len(seen))
	}
	for i, dek := range seen {
		if len(dek) != envelope.DEKSize || !bytes.Equal(dek, make([]byte, envelope.DEKSize)) {
			t.Errorf("DEK %d is not wiped", i)
		}
	}
}

type wrapFunc func(context.Context, []byte) (envelope.WrappedKey, error)

func (f wrapFunc) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	return f(ctx, dek)
}

// A back end that breaks the bounds of WrappedKey is found out when it wraps, not
// when its data is to be read.
func TestBadWrapper(t *testing.T) {
	for name, w := range map[string]envelope.WrappedKey{
		"nothing":      {},
		"no key id":    {Algorithm: "A", Blob: []byte{1}},
		"no algorithm": {KeyID: "k", Blob: []byte{1}},
		"no blob":      {KeyID: "k", Algorithm: "A"},
		"large blob":   {KeyID: "k", Algorithm: "A", Blob: make([]byte, envelope.MaxBlobSize+1)},
	} {
		s := newSealer(t, wrapFunc(func(context.Context, []byte) (envelope.WrappedKey, error) { return w, nil }), envelope.SealerOptions{})
		if _, err := s.Seal(t.Context(), nil, nil); !errors.Is(err, envelope.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

func TestWipedKey(t *testing.T) {
	kek := newKEK("kek")
	env := seal(t, newSealer(t, kek, envelope.SealerOptions{}), []byte("secret"), nil)
	header, message, _ := envelope.Split(env)
	key, err := envelope.OpenHeader(t.Context(), kek, header)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.Open(message, nil); err != nil {
		t.Fatal(err)
	}
	key.Wipe()
	if p, err := key.Open(message, nil); p != nil || !errors.Is(err, envelope.ErrInvalid) {
		t.Errorf("a wiped key opens %q, %v; want ErrInvalid", p, err)
	}
	if key.Secret() != [32]byte{} {
		t.Error("the key is still there")
	}
}

// Calls under way when a key is wiped end well or find it wiped, and none of them
// leaves a cipher behind for those that come later.
func TestWipeUnderway(t *testing.T) {
	kek := newKEK("kek")
	plaintext := random(64 << 10)
	env := seal(t, newSealer(t, kek, envelope.SealerOptions{}), plaintext, nil)
	header, message, _ := envelope.Split(env)
	for range 300 {
		key, err := envelope.OpenHeader(t.Context(), kek, header)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		started := make(chan struct{})
		wg.Go(func() {
			close(started)
			p, err := key.Open(message, nil)
			if err == nil && !bytes.Equal(p, plaintext) || err != nil && !errors.Is(err, envelope.ErrInvalid) {
				t.Errorf("%d bytes, %v", len(p), err)
			}
		})
		<-started
		key.Wipe()
		wg.Wait()
		if _, err := key.Open(message, nil); !errors.Is(err, envelope.ErrInvalid) {
			t.Fatalf("a wiped key: %v, want ErrInvalid", err)
		}
	}
}

// keySource is a KeySource that answers as a test says.
type keySource func(context.Context, []byte) (*envelope.OpenKey, error)

func (f keySource) OpenKey(ctx context.Context, header []byte) (*envelope.OpenKey, error) {
	return f(ctx, header)
}

// A cache that drops a key just as it is used is asked once more, and one that
// only ever has wiped keys does not hang its callers.
func TestKeyWipedUnderway(t *testing.T) {
	kek := newKEK("kek")
	env := seal(t, newSealer(t, kek, envelope.SealerOptions{}), []byte("secret"), nil)
	for _, wiped := range []int{1, 1 << 30} {
		calls := 0
		opener := envelope.NewOpenerFrom(keySource(func(ctx context.Context, header []byte) (*envelope.OpenKey, error) {
			k, err := envelope.OpenHeader(ctx, kek, header)
			if calls++; calls <= wiped {
				k.Wipe()
			}
			return k, err
		}))
		p, err := opener.Open(t.Context(), env, nil)
		if wiped == 1 && (err != nil || string(p) != "secret") {
			t.Errorf("wiped once: %q, %v", p, err)
		}
		if wiped > 1 && !errors.Is(err, envelope.ErrInvalid) {
			t.Errorf("always wiped: %v, want ErrInvalid", err)
		}
	}
}
