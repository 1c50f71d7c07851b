// Quickstart teaches envelope encryption by doing it, in a few seconds and without any
// set-up:
//
//	go run ./examples/quickstart
//
// It makes a simulated HSM in a temporary folder, seals a thousand letters, opens them,
// rotates the key, moves a letter to the new key and disables the old one. Each chapter is
// a function to copy from; between them, the program prints what the HSM was asked to do,
// read from its own operations log.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/keyfold/keyfold/cache"
	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// keyName is the KEK's name in the HSM, where each rotation adds a version.
const keyName = "letters"

// count is how many letters there are.
const count = 1000

func run(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "keyfold-quickstart-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	hsm, err := hsmsim.Open(filepath.Join(dir, "hsm"), hsmsim.Options{})
	if err != nil {
		return err
	}
	defer hsm.Close()
	p := &page{out: out, hsmDir: filepath.Join(dir, "hsm")}

	p.say("Envelope encryption: a key in an HSM encrypts small keys, and those encrypt the data.")
	p.say("")
	p.say("    KEK, stays in the HSM  -->  DEK, stored wrapped beside the data  -->  the data")

	first, kek, err := makeKey(ctx, p, hsm)
	if err != nil {
		return err
	}
	letters, err := seal(ctx, p, kek)
	if err != nil {
		return err
	}
	if err := open(ctx, p, kek, letters); err != nil {
		return err
	}
	kek, err = rotate(ctx, p, hsm, first, letters[0])
	if err != nil {
		return err
	}
	moved, err := rewrap(ctx, p, kek, letters[0])
	if err != nil {
		return err
	}
	if err := disable(ctx, p, hsm, first, kek, moved, letters[1]); err != nil {
		return err
	}
	p.say("")
	p.say("This program is examples/quickstart; each chapter is a function to copy from.")
	return nil
}

// A letter is an envelope and where it is stored. The place is authenticated with the
// content, so that nobody can exchange two letters in the store.
type letter struct {
	place    string
	envelope []byte
}

func content(n int) []byte {
	return fmt.Appendf(nil, "Dear customer %04d, your PIN is %04d.", n, 9999-n)
}

// makeKey is chapter 1: the key-encryption key and where it lives.
func makeKey(ctx context.Context, p *page, hsm *hsmsim.HSM) (hsmsim.KeyVersion, envelope.KEK, error) {
	p.heading("1. A key that never leaves its home")
	version, err := hsm.CreateKey(ctx, keyName, hsmsim.AES256)
	if err != nil {
		return version, nil, err
	}
	kek, err := hsm.KEK(hsmsim.Ref{Name: keyName, Version: version.Version})
	if err != nil {
		return version, nil, err
	}
	p.say("A simulated HSM now holds the key %q. No call returns its bytes: one can only", keyName)
	p.say("send something there to be wrapped or unwrapped. It is the key-encryption key (KEK).")
	p.say("Its id is FAMILY/VERSION: a hash of where the key lives, and its version.")
	p.fact("KEK", "%s", version.KeyID)
	return version, kek, p.asked()
}

// seal is chapter 2: many messages, one remote call.
func seal(ctx context.Context, p *page, kek envelope.KEK) ([]letter, error) {
	p.heading("2. Seal")
	sealer, err := envelope.NewSealer(kek, envelope.SealerOptions{})
	if err != nil {
		return nil, err
	}
	defer sealer.Close()
	var letters []letter
	for n := range count {
		place := fmt.Sprintf("letters/%04d", n)
		env, err := sealer.Seal(ctx, content(n), []byte(place))
		if err != nil {
			return nil, err
		}
		letters = append(letters, letter{place, env})
	}
	header, message, err := envelope.Split(letters[0].envelope)
	if err != nil {
		return nil, err
	}
	p.say("%d letters are sealed. Calling an HSM for each would be slow, so the library drew a", count)
	p.say("random data-encryption key (DEK), had it wrapped once, and encrypted here with it.")
	p.say("Every envelope carries the wrapped DEK in its header, so that there is no database of")
	p.say("keys to lose.")
	p.fact("letter", "%d bytes", len(content(0)))
	p.fact("envelope", "%d bytes = header %d + nonce 24 + encrypted letter %d + tag 16",
		len(letters[0].envelope), len(header), len(message)-envelope.MessageOverhead)
	return letters, p.asked()
}

// open is chapter 3: reading, and what is refused.
func open(ctx context.Context, p *page, kek envelope.KEK, letters []letter) error {
	p.heading("3. Open")
	keys, err := cache.New(kek, cache.Options{})
	if err != nil {
		return err
	}
	opener := envelope.NewOpenerFrom(keys)
	for n, l := range letters {
		plaintext, err := opener.Open(ctx, l.envelope, []byte(l.place))
		if err != nil {
			return err
		}
		if !bytes.Equal(plaintext, content(n)) {
			return fmt.Errorf("%s holds something else", l.place)
		}
	}
	p.say("All %d are read again. The HSM unwraps the DEK once and a cache keeps it; without a", count)
	p.say("cache each letter would be a call.")
	p.say("A letter moved to another place does not open, nor does one with a single bit changed:")
	_, err = opener.Open(ctx, letters[1].envelope, []byte(letters[2].place))
	p.fact("moved", "%v", err)
	changed := bytes.Clone(letters[1].envelope)
	changed[len(changed)-1] ^= 1
	_, err = opener.Open(ctx, changed, []byte(letters[1].place))
	p.fact("changed", "%v", err)
	return p.asked()
}

// rotate is chapter 4: a new version of the key, and nothing else changes.
func rotate(ctx context.Context, p *page, hsm *hsmsim.HSM, first hsmsim.KeyVersion, old letter) (envelope.KEK, error) {
	p.heading("4. Rotate the key")
	second, err := hsm.Rotate(ctx, keyName)
	if err != nil {
		return nil, err
	}
	kek, err := hsm.KEK(hsmsim.Ref{Name: keyName, Version: second.Version})
	if err != nil {
		return nil, err
	}
	if _, err := envelope.NewOpener(kek).Open(ctx, old.envelope, []byte(old.place)); err != nil {
		return nil, err
	}
	p.say("The key has a second version, which wraps from now on. Each wrapped DEK names the")
	p.say("version that it needs, so old letters open as before and nothing is re-encrypted.")
	p.say("(A service does this with a rotation.Ring, which also watches the keys' health.)")
	p.fact("old KEK", "%s", first.KeyID)
	p.fact("new KEK", "%s", second.KeyID)
	return kek, p.asked()
}

// rewrap is chapter 5: another KEK for a letter, without touching its content.
func rewrap(ctx context.Context, p *page, kek envelope.KEK, l letter) (letter, error) {
	p.heading("5. Rewrap")
	rewrapper, err := envelope.NewRewrapper(kek, kek) // reads with one, wraps with the other
	if err != nil {
		return letter{}, err
	}
	env, err := rewrapper.Rewrap(ctx, l.envelope)
	if err != nil {
		return letter{}, err
	}
	_, before, err := envelope.Split(l.envelope)
	if err != nil {
		return letter{}, err
	}
	_, after, err := envelope.Split(env)
	if err != nil {
		return letter{}, err
	}
	if !bytes.Equal(before, after) {
		return letter{}, errors.New("rewrapping changed the message")
	}
	p.say("Rewrapping wraps the same DEK under the new version. Only the header changes; the")
	p.say("encrypted letter stays as it is, however long.")
	moved := letter{l.place, env}
	for _, x := range []struct {
		name string
		letter
	}{{"before", l}, {"after", moved}} {
		// Inspect needs no key: anybody may see which key an envelope needs.
		h, _, err := envelope.Inspect(x.envelope)
		if err != nil {
			return letter{}, err
		}
		p.fact(x.name, "DEK %x under KEK %s", h.DEKID[:4], h.Wraps[0].KeyID)
	}
	return moved, p.asked()
}

// disable is chapter 6: what is bound to the old key stays behind.
func disable(ctx context.Context, p *page, hsm *hsmsim.HSM, first hsmsim.KeyVersion, kek envelope.KEK, moved, left letter) error {
	p.heading("6. Disable the old version")
	if err := hsm.SetEnabled(ctx, keyName, first.Version, false); err != nil {
		return err
	}
	opener := envelope.NewOpener(kek)
	plaintext, err := opener.Open(ctx, moved.envelope, []byte(moved.place))
	if err != nil {
		return err
	}
	p.say("The rewrapped letter opens. The one left behind says why it does not, and what to do:")
	p.fact(moved.place, "%q", plaintext)
	_, err = opener.Open(ctx, left.envelope, []byte(left.place))
	if !errors.Is(err, envelope.ErrDisabled) {
		return fmt.Errorf("%s, under a disabled key: got %v, want %v", left.place, err, envelope.ErrDisabled)
	}
	p.fact(left.place, "%v", err)
	p.say("So before deleting an old key, rewrap everything and look: Inspect tells, without a")
	p.say("key, what still needs it.")
	return p.asked()
}
