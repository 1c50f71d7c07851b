package envelope_test

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// Messages of several writers of one DEK, each with a selector of its own, all
// open under one key, in any order and at once.
func TestSeveralSelectors(t *testing.T) {
	kek := newKEK("kek")
	s := newSealer(t, kek, envelope.SealerOptions{})
	if err := s.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	header := s.Header()
	var messages [][]byte
	for range 4 {
		_, m, err := s.SealDetached(t.Context(), []byte("secret"), nil)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
		if err := s.Resume(t.Context(), kek, header, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	for i, m := range messages[1:] {
		if bytes.Equal(m[:12], messages[i][:12]) {
			t.Error("a resumed DEK keeps its selector")
		}
	}
	key, err := envelope.OpenHeader(t.Context(), kek, header)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 100 {
				p, err := key.Open(messages[(g+i)%len(messages)], nil)
				if err != nil || string(p) != "secret" {
					t.Errorf("%q, %v", p, err)
				}
			}
		})
	}
	wg.Wait()
}

// What did not authenticate leaves no trace: the true writer's selector is still
// the one made ready, so that opening its messages allocates nothing.
func TestReadyAfterAuthenticationOnly(t *testing.T) {
	kek := newKEK("kek")
	env := seal(t, newSealer(t, kek, envelope.SealerOptions{}), []byte("secret"), nil)
	header, message, _ := envelope.Split(env)
	key, err := envelope.OpenHeader(t.Context(), kek, header)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(message)
	forged[0] ^= 1 // another selector
	if _, err := key.Open(forged, nil); !errors.Is(err, envelope.ErrCorrupt) {
		t.Fatalf("%v, want ErrCorrupt", err)
	}
	dst := make([]byte, 0, 64)
	open := func() {
		if _, err := key.AppendOpen(dst, message, nil); err != nil {
			t.Fatal(err)
		}
	}
	open()
	if _, err := key.Open(forged, nil); !errors.Is(err, envelope.ErrCorrupt) {
		t.Fatalf("%v, want ErrCorrupt", err)
	}
	if n := testing.AllocsPerRun(10, open); n != 0 {
		t.Errorf("%v allocations: the true selector is not ready", n)
	}
}

// Of several writers of one DEK, the first whose message authenticates stays
// ready: those of another run do not push it out in turn.
func TestReadyStays(t *testing.T) {
	kek := newKEK("kek")
	s := newSealer(t, kek, envelope.SealerOptions{})
	header, first, err := s.SealDetached(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Resume(t.Context(), kek, header, time.Now()); err != nil {
		t.Fatal(err)
	}
	_, second, err := s.SealDetached(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := envelope.OpenHeader(t.Context(), kek, header)
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, 0, 64)
	allocations := func(messages ...[]byte) float64 {
		return testing.AllocsPerRun(10, func() {
			for _, message := range messages {
				if _, err := key.AppendOpen(dst, message, nil); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	both := allocations(first, second)
	if one := allocations(second); both != one || one == 0 {
		t.Errorf("%v allocations in turn, %v for the second alone: the first is not kept ready", both, one)
	}
}

// The hot paths, with a key at hand: nothing beyond the result is allocated that
// plain GCM does not allocate as well (which is nothing, but for FIPS mode under
// the race detector).
func TestAllocations(t *testing.T) {
	kek := newKEK("kek")
	var key *envelope.OpenKey
	s := newSealer(t, kek, envelope.SealerOptions{OnNewDEK: func(k *envelope.OpenKey, _ time.Time) { key = k }})
	plaintext, aad := random(1024), []byte("aad")
	env := seal(t, s, plaintext, aad)
	header, message, _ := envelope.Split(env)
	opener := envelope.NewOpenerFrom(oneKey{key})
	dst, dst2 := make([]byte, 0, 2048), make([]byte, 0, 2048)
	ctx := t.Context()

	allocations := func(run func() error) float64 {
		return testing.AllocsPerRun(100, func() {
			if err := run(); err != nil {
				t.Fatal(err)
			}
		})
	}
	floor, err := envelope.NewMessageAEAD(new([32]byte), [12]byte{})
	if err != nil {
		t.Fatal(err)
	}
	sealed := floor.Seal(nil, nil, plaintext, aad)
	floorSeal := allocations(func() error { floor.Seal(dst, nil, plaintext, aad); return nil })
	floorOpen := allocations(func() error { _, err := floor.Open(dst, nil, sealed, aad); return err })

	for _, test := range []struct {
		name string
		want float64
		run  func() error
	}{
		{"Seal", floorSeal + 1, func() error { _, err := s.Seal(ctx, plaintext, aad); return err }},
		{"SealDetached", floorSeal + 2, func() error { _, _, err := s.SealDetached(ctx, plaintext, aad); return err }},
		{"AppendSeal", floorSeal, func() error { _, err := s.AppendSeal(ctx, dst, plaintext, aad); return err }},
		{"AppendSealDetached", floorSeal, func() error { _, _, err := s.AppendSealDetached(ctx, dst, dst2, plaintext, aad); return err }},
		{"Open", floorOpen + 1, func() error { _, err := opener.Open(ctx, env, aad); return err }},
		{"OpenDetached", floorOpen + 1, func() error { _, err := opener.OpenDetached(ctx, header, message, aad); return err }},
		{"AppendOpen", floorOpen, func() error { _, err := opener.AppendOpen(ctx, dst, env, aad); return err }},
		{"AppendOpenDetached", floorOpen, func() error { _, err := opener.AppendOpenDetached(ctx, dst, header, message, aad); return err }},
		{"OpenKey.Open", floorOpen + 1, func() error { _, err := key.Open(message, aad); return err }},
		{"OpenKey.AppendOpen", floorOpen, func() error { _, err := key.AppendOpen(dst, message, aad); return err }},
		{"Split", 0, func() error { _, _, err := envelope.Split(env); return err }},
		{"HeaderKey", 0, func() error { _, _, err := envelope.HeaderKey(header); return err }},
	} {
		if got := allocations(test.run); got > test.want {
			t.Errorf("%s: %v allocations, want %v", test.name, got, test.want)
		}
	}
}
