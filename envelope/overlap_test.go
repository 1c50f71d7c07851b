package envelope_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/keyfold/keyfold/envelope"
)

// Every pair of a destination and an input in one arena, at every distance that
// matters: either the call is refused and nothing is written, or the result is
// right and the input whole.
func TestOverlap(t *testing.T) {
	const input = 64
	kek := newKEK("kek")
	s := newSealer(t, kek, envelope.SealerOptions{})
	opener := envelope.NewOpener(kek)
	plaintext, other := random(input), random(input)
	env := seal(t, s, plaintext, other)
	header, message, _ := envelope.Split(env)
	key, err := envelope.OpenHeader(t.Context(), kek, header)
	if err != nil {
		t.Fatal(err)
	}

	// Each operation has its input at in, somewhere in the arena, and appends to
	// dst, which is in the arena too.
	for _, op := range []struct {
		name  string
		input []byte
		run   func(dst, in []byte) ([]byte, error)
		check func(appended []byte) error
	}{
		{"AppendSeal plaintext", plaintext,
			func(dst, in []byte) ([]byte, error) { return s.AppendSeal(t.Context(), dst, in, other) },
			func(b []byte) error { return opens(t, opener, b, other, plaintext) }},
		{"AppendSeal aad", other,
			func(dst, in []byte) ([]byte, error) { return s.AppendSeal(t.Context(), dst, plaintext, in) },
			func(b []byte) error { return opens(t, opener, b, other, plaintext) }},
		{"AppendSealDetached message, plaintext", plaintext,
			func(dst, in []byte) ([]byte, error) {
				h, m, err := s.AppendSealDetached(t.Context(), nil, dst, in, other)
				if err == nil && !bytes.Equal(h, header) {
					err = errors.New("wrong header")
				}
				return m, err
			},
			func(b []byte) error { return opens(t, opener, append(bytes.Clone(header), b...), other, plaintext) }},
		{"AppendSealDetached message, aad", other,
			func(dst, in []byte) ([]byte, error) {
				_, m, err := s.AppendSealDetached(t.Context(), nil, dst, plaintext, in)
				return m, err
			},
			func(b []byte) error { return opens(t, opener, append(bytes.Clone(header), b...), other, plaintext) }},
		{"AppendSealDetached header, plaintext", plaintext,
			func(dst, in []byte) ([]byte, error) {
				h, _, err := s.AppendSealDetached(t.Context(), dst, nil, in, other)
				return h, err
			},
			func(b []byte) error { return equal(b, header) }},
		{"AppendSealDetached header, aad", other,
			func(dst, in []byte) ([]byte, error) {
				h, _, err := s.AppendSealDetached(t.Context(), dst, nil, plaintext, in)
				return h, err
			},
			func(b []byte) error { return equal(b, header) }},
		{"AppendOpen envelope", env,
			func(dst, in []byte) ([]byte, error) { return opener.AppendOpen(t.Context(), dst, in, other) },
			func(b []byte) error { return equal(b, plaintext) }},
		{"AppendOpen aad", other,
			func(dst, in []byte) ([]byte, error) { return opener.AppendOpen(t.Context(), dst, env, in) },
			func(b []byte) error { return equal(b, plaintext) }},
		{"AppendOpenDetached header", header,
			func(dst, in []byte) ([]byte, error) {
				return opener.AppendOpenDetached(t.Context(), dst, in, message, other)
			},
			func(b []byte) error { return equal(b, plaintext) }},
		{"AppendOpenDetached message", message,
			func(dst, in []byte) ([]byte, error) {
				return opener.AppendOpenDetached(t.Context(), dst, header, in, other)
			},
			func(b []byte) error { return equal(b, plaintext) }},
		{"AppendOpenDetached aad", other,
			func(dst, in []byte) ([]byte, error) {
				return opener.AppendOpenDetached(t.Context(), dst, header, message, in)
			},
			func(b []byte) error { return equal(b, plaintext) }},
		{"AppendSeal empty plaintext", nil, // which shares memory with nothing
			func(dst, in []byte) ([]byte, error) { return s.AppendSeal(t.Context(), dst, in, other) },
			func(b []byte) error { return opens(t, opener, b, other, nil) }},
		{"OpenKey.AppendOpen message", message,
			func(dst, in []byte) ([]byte, error) { return key.AppendOpen(dst, in, other) },
			func(b []byte) error { return equal(b, plaintext) }},
		{"OpenKey.AppendOpen aad", other,
			func(dst, in []byte) ([]byte, error) { return key.AppendOpen(dst, message, in) },
			func(b []byte) error { return equal(b, plaintext) }},
	} {
		t.Run(op.name, func(t *testing.T) {
			const dstLen, dstCap = 8, 512
			n := len(op.input)
			for start := -n - 1; start <= dstCap+1; start++ {
				arena := make([]byte, n+1+dstCap+1+n)
				at := n + 1 + start // of the input, with the destination at n+1
				in := arena[at : at+n]
				dst := arena[n+1 : n+1+dstLen : n+1+dstCap]
				copy(dst, "existing")
				copy(in, op.input)
				before := bytes.Clone(arena)
				existing := bytes.Clone(dst)

				shares := n > 0 && start < dstCap && start+n > dstLen // with the spare capacity
				got, err := op.run(dst, in)
				if shares {
					if !errors.Is(err, envelope.ErrInvalid) || !bytes.Equal(arena, before) {
						t.Fatalf("input at %d: %v, want ErrInvalid and nothing written", start, err)
					}
					continue
				}
				if err != nil || !bytes.Equal(in, op.input) || !bytes.HasPrefix(got, existing) {
					t.Fatalf("input at %d: %v, or an argument changed", start, err)
				}
				if err := op.check(got[dstLen:]); err != nil {
					t.Fatalf("input at %d: %v", start, err)
				}
			}
		})
	}
}

// The two destinations of AppendSealDetached must be apart as well.
func TestOverlapOfDestinations(t *testing.T) {
	s := newSealer(t, newKEK("kek"), envelope.SealerOptions{})
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	arena := make([]byte, 2048)
	for name, d := range map[string][2][]byte{
		"the same":                {arena[:0], arena[:0]},
		"message in header's":     {arena[:0], arena[100:100]},
		"header in message's":     {arena[100:100], arena[:0]},
		"header's over message's": {arena[0:0:600], arena[500:500]},
		"existing message bytes":  {arena[0:0:600], arena[100:200:200]},
		"existing header bytes":   {arena[100:200:200], arena[0:0:600]},
	} {
		h, m, err := s.AppendSealDetached(t.Context(), d[0], d[1], []byte("secret"), nil)
		if h != nil || m != nil || !errors.Is(err, envelope.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if !bytes.Equal(arena, make([]byte, len(arena))) {
		t.Error("a refused call has written")
	}
	h, m, err := s.AppendSealDetached(t.Context(), arena[0:0:1024], arena[1024:1024], []byte("secret"), nil)
	if err != nil || &h[0] != &arena[0] || &m[0] != &arena[1024] {
		t.Errorf("two halves of one arena: %v", err)
	}
}

func opens(t *testing.T, o *envelope.Opener, env, aad, want []byte) error {
	got, err := o.Open(t.Context(), env, aad)
	if err != nil {
		return err
	}
	return equal(got, want)
}

func equal(got, want []byte) error {
	if !bytes.Equal(got, want) {
		return fmt.Errorf("got %x, want %x", got, want)
	}
	return nil
}
