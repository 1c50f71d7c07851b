package envelope_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/keyfold/keyfold/envelope"
)

// rewrapped seals under a key that is then forgotten, and wraps for targets.
func rewrapped(t *testing.T, plaintext []byte, targets ...envelope.Wrapper) []byte {
	t.Helper()
	first := newKEK("forgotten")
	env := seal(t, newSealer(t, first, envelope.SealerOptions{}), plaintext, nil)
	r, err := envelope.NewRewrapper(first, targets...)
	if err != nil {
		t.Fatal(err)
	}
	env, err = r.Rewrap(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func TestAnyWrapOpens(t *testing.T) {
	a, b, c := newKEK("a"), newKEK("b"), newKEK("c")
	env := rewrapped(t, []byte("secret"), a, b, c)
	disabled := newKEK("a")
	disabled.setFail(&envelope.Error{Class: envelope.ErrDisabled, Op: "unwrap", Key: "a"})
	for name, u := range map[string]envelope.Unwrapper{
		"first": a, "second": b, "third": c, "all": keyring{a, b, c},
		"first disabled": keyring{disabled, b}, "first broken": keyring{newKEK("a"), c},
	} {
		if p, err := envelope.NewOpener(u).Open(t.Context(), env, nil); err != nil || string(p) != "secret" {
			t.Errorf("%s: %q, %v", name, p, err)
		}
	}
	header, _, _ := envelope.Split(env)
	k, err := envelope.OpenHeader(t.Context(), b, header)
	if err != nil {
		t.Fatal(err)
	}
	if ids := fmt.Sprint(k.KeyIDs()); ids != "[a b c]" {
		t.Errorf("key ids %s", ids)
	}
	if !bytes.Equal(k.Header(), header) {
		t.Error("the key's header is not the one it was opened from")
	}
}

// A forged copy spoils the header, whichever copy the opener tries first: the
// tag covers them all.
func TestForgedWrap(t *testing.T) {
	a, b := newKEK("a"), newKEK("b")
	env := rewrapped(t, []byte("secret"), a, b)
	h, size, err := envelope.Inspect(env)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := a.Wrap(t.Context(), random(envelope.DEKSize)) // as anybody can with a public key
	if err != nil {
		t.Fatal(err)
	}
	garbage := envelope.WrappedKey{KeyID: "a", Algorithm: memAlgorithm, Blob: random(len(foreign.Blob))}
	for name, wraps := range map[string][]envelope.WrappedKey{
		"another DEK first":      {foreign, h.Wraps[1]},
		"another DEK second":     {h.Wraps[1], foreign},
		"garbage first":          {garbage, h.Wraps[1]},
		"a copy removed":         {h.Wraps[1]},
		"copies swapped":         {h.Wraps[1], h.Wraps[0]},
		"a copy added":           {h.Wraps[0], h.Wraps[1], {KeyID: "x", Algorithm: "A", Blob: []byte{1}}},
		"another algorithm":      {h.Wraps[0], {KeyID: "b", Algorithm: "none", Blob: h.Wraps[1].Blob}},
		"another key's name":     {h.Wraps[0], {KeyID: "c", Algorithm: memAlgorithm, Blob: h.Wraps[1].Blob}},
		"another's blob, a copy": {{KeyID: "a", Algorithm: memAlgorithm, Blob: h.Wraps[1].Blob}, h.Wraps[1]},
	} {
		h.Wraps = wraps
		header, err := h.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range []envelope.Unwrapper{a, b, keyring{a, b}} {
			p, err := envelope.NewOpener(u).OpenDetached(t.Context(), header, env[size:], nil)
			if p != nil || !errors.Is(err, envelope.ErrCorrupt) && !errors.Is(err, envelope.ErrUnknownKey) {
				t.Errorf("%s: %q, %v", name, p, err)
			}
		}
	}
}

// A DEK that does not verify the header's tag decides: no other wrap could make
// that header good, and none is asked for.
func TestMismatchIsFinal(t *testing.T) {
	env := rewrapped(t, nil, newKEK("a"), newKEK("b"))
	calls := 0
	opener := envelope.NewOpener(unwrapFunc(func(context.Context, envelope.WrappedKey) ([]byte, error) {
		calls++
		return random(envelope.DEKSize), nil
	}))
	if _, err := opener.Open(t.Context(), env, nil); !errors.Is(err, envelope.ErrCorrupt) || calls != 1 {
		t.Errorf("%v after %d unwraps, want ErrCorrupt after 1", err, calls)
	}
}

// If no wrap opens, the error is the one with the most hope in it.
func TestMostHopefulError(t *testing.T) {
	plain := errors.New("connection reset")
	for _, test := range []struct {
		name      string
		a, b      error
		want, not error
	}{
		{"all unknown", envelope.ErrUnknownKey, envelope.ErrUnknownKey, envelope.ErrUnknownKey, nil},
		{"unknown, unreachable", envelope.ErrUnknownKey, envelope.ErrUnreachable, envelope.ErrUnreachable, envelope.ErrUnknownKey},
		{"disabled, unreachable", envelope.ErrDisabled, envelope.ErrUnreachable, envelope.ErrUnreachable, envelope.ErrDisabled},
		{"throttled, corrupt", envelope.ErrThrottled, envelope.ErrCorrupt, envelope.ErrThrottled, envelope.ErrCorrupt},
		{"corrupt, unauthenticated", envelope.ErrCorrupt, envelope.ErrUnauthenticated, envelope.ErrUnauthenticated, envelope.ErrCorrupt},
		{"corrupt, forbidden", envelope.ErrCorrupt, envelope.ErrForbidden, envelope.ErrForbidden, envelope.ErrCorrupt},
		{"deleted, forbidden", envelope.ErrDeleted, envelope.ErrForbidden, envelope.ErrDeleted, envelope.ErrForbidden},
		{"unknown, corrupt", envelope.ErrUnknownKey, envelope.ErrCorrupt, envelope.ErrCorrupt, envelope.ErrUnknownKey},
		{"unclassed, disabled", plain, envelope.ErrDisabled, envelope.ErrUnreachable, envelope.ErrDisabled},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := rewrapped(t, nil, newKEK("a"), newKEK("b"))
			fails := map[string]error{"a": test.a, "b": test.b}
			_, err := envelope.NewOpener(unwrapFunc(func(_ context.Context, w envelope.WrappedKey) ([]byte, error) {
				return nil, fails[w.KeyID]
			})).Open(t.Context(), env, nil)
			if !errors.Is(err, test.want) || test.not != nil && errors.Is(err, test.not) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if e, ok := errors.AsType[*envelope.Error](err); !ok || e.Key == "" {
				t.Errorf("%v does not name the key", err)
			}
		})
	}
}

// A caller that has given up costs no further remote call.
func TestOpenCancelled(t *testing.T) {
	env := rewrapped(t, nil, newKEK("a"), newKEK("b"))
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	opener := envelope.NewOpener(unwrapFunc(func(ctx context.Context, _ envelope.WrappedKey) ([]byte, error) {
		calls++
		cancel()
		return nil, ctx.Err()
	}))
	for range 2 {
		_, err := opener.Open(ctx, env, nil)
		if !errors.Is(err, envelope.ErrUnreachable) || !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want ErrUnreachable and context.Canceled", err)
		}
	}
	if calls != 1 {
		t.Errorf("%d unwraps, want 1", calls)
	}
}
