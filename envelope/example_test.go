package envelope_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// The examples use a KEK in memory. Package hsmsim has one that lasts.

func Example() {
	ctx := context.Background()
	kek := newKEK("my-key/1")

	sealer, err := envelope.NewSealer(kek, envelope.SealerOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer sealer.Close()
	env, err := sealer.Seal(ctx, []byte("attack at dawn"), []byte("orders/1"))
	if err != nil {
		log.Fatal(err)
	}

	opener := envelope.NewOpener(kek)
	plaintext, err := opener.Open(ctx, env, []byte("orders/1"))
	fmt.Printf("%s, %v\n", plaintext, err)

	// The same envelope in another place is not accepted.
	_, err = opener.Open(ctx, env, []byte("orders/2"))
	fmt.Println(errors.Is(err, envelope.ErrCorrupt))
	// Output:
	// attack at dawn, <nil>
	// true
}

// Many small messages share one header, which is stored once.
func ExampleSealer_SealDetached() {
	ctx := context.Background()
	kek := newKEK("my-key/1")
	sealer, err := envelope.NewSealer(kek, envelope.SealerOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer sealer.Close()

	var header []byte
	var messages [][]byte
	for _, text := range []string{"one", "two", "three"} {
		h, message, err := sealer.SealDetached(ctx, []byte(text), nil)
		if err != nil {
			log.Fatal(err)
		}
		header, messages = h, append(messages, message)
	}

	key, err := envelope.OpenHeader(ctx, kek, header) // one unwrap for all of them
	if err != nil {
		log.Fatal(err)
	}
	defer key.Wipe()
	for _, message := range messages {
		plaintext, err := key.Open(message, nil)
		fmt.Printf("%s, %v, %d bytes more\n", plaintext, err, len(message)-len(plaintext))
	}
	// Output:
	// one, <nil>, 40 bytes more
	// two, <nil>, 40 bytes more
	// three, <nil>, 40 bytes more
}

// After a restart the Sealer goes on under the DEK of before, which a KEK that
// has expired still unwraps.
func ExampleSealer_Resume() {
	ctx := context.Background()
	kek := newKEK("my-key/1")

	// Kept in a file, say: no secret.
	var header []byte
	var created time.Time
	options := envelope.SealerOptions{
		OnNewDEK: func(k *envelope.OpenKey, t time.Time) { header, created = k.Header(), t },
	}
	sealer, err := envelope.NewSealer(kek, options)
	if err != nil {
		log.Fatal(err)
	}
	if err := sealer.Prepare(ctx); err != nil {
		log.Fatal(err)
	}
	sealer.Close()

	sealer, err = envelope.NewSealer(kek, options)
	if err != nil {
		log.Fatal(err)
	}
	defer sealer.Close()
	if err := sealer.Resume(ctx, kek, header, created); err != nil {
		log.Fatal(err)
	}
	_, err = sealer.Seal(ctx, []byte("after the restart"), nil)
	fmt.Println(err, kek.wrapCalls(), "wrap")
	// Output: <nil> 1 wrap
}

func ExampleRewrapper() {
	ctx := context.Background()
	before, after, recovery := newKEK("my-key/1"), newKEK("my-key/2"), newKEK("recovery")
	sealer, err := envelope.NewSealer(before, envelope.SealerOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer sealer.Close()
	env, err := sealer.Seal(ctx, []byte("attack at dawn"), nil)
	if err != nil {
		log.Fatal(err)
	}

	rewrapper, err := envelope.NewRewrapper(before, after, recovery)
	if err != nil {
		log.Fatal(err)
	}
	env, err = rewrapper.Rewrap(ctx, env)
	if err != nil {
		log.Fatal(err)
	}

	header, _, err := envelope.Inspect(env) // needs no key
	if err != nil {
		log.Fatal(err)
	}
	for _, w := range header.Wraps {
		fmt.Println(w.KeyID, w.Algorithm)
	}
	for _, kek := range []*memKEK{before, after, recovery} {
		plaintext, err := envelope.NewOpener(kek).Open(ctx, env, nil)
		fmt.Printf("%s: %q, unknown key: %v\n", kek.id, plaintext, errors.Is(err, envelope.ErrUnknownKey))
	}
	// Output:
	// my-key/2 AES-256-GCM
	// recovery AES-256-GCM
	// my-key/1: "", unknown key: true
	// my-key/2: "attack at dawn", unknown key: false
	// recovery: "attack at dawn", unknown key: false
}

func ExampleParseKeyID() {
	id, err := envelope.ParseKeyID("3f9ac81b7d02e456/0f5d3c7a.2")
	fmt.Println(id.Family, id.Version, id.Epoch, err)
	_, err = envelope.ParseKeyID("3f9ac81b7d02e456/0f5d3c7a.02")
	fmt.Println(errors.Is(err, envelope.ErrUnknownKey))
	// Output:
	// 3f9ac81b7d02e456 0f5d3c7a 2 <nil>
	// true
}
