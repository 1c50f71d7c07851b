// Customplugin is a Kubernetes KMS v2 plugin with a key-encryption key (KEK) of one's own:
// Wrap and Unwrap are what a KEK has to do, and everything else that a plugin needs comes
// from the library. Replace the two by calls to your vault. The tests beside it run both
// conformance suites, envelope/kektest on the KEK and kmsv2/kmstest on the plugin.
//
//	head -c 32 /dev/urandom > kek.bin
//	go run ./examples/customplugin unix:///run/kms/custom.sock kek.bin
//
// For learning only: a key in a file next to the data protects against little.
package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/kmsv2"
	"github.com/keyfold/keyfold/rotation"
)

// fileKEK wraps under an AES-256 key. Its id must never name another key and must not
// reveal this one: here it is a hash.
type fileKEK struct {
	id   string
	aead cipher.AEAD
}

func (k fileKEK) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	return envelope.WrappedKey{KeyID: k.id, Algorithm: "A256GCM", Blob: k.aead.Seal(nil, nil, dek, nil)}, ctx.Err()
}

// Unwrap classifies its errors: the class decides what the library does about them.
func (k fileKEK) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	if w.KeyID != k.id {
		return nil, envelope.ErrUnknownKey
	}
	if err := ctx.Err(); err != nil { // a vault's client does this by itself
		return nil, fmt.Errorf("%w: %w", envelope.ErrUnreachable, err)
	}
	dek, err := k.aead.Open(nil, nil, w.Blob, nil)
	if err != nil || w.Algorithm != "A256GCM" {
		return nil, fmt.Errorf("%w: not wrapped by this key", envelope.ErrCorrupt)
	}
	return dek, nil
}

func newFileKEK(key []byte) (fileKEK, error) {
	if len(key) != 32 {
		return fileKEK{}, fmt.Errorf("the key file holds %d bytes, not 32 random ones", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return fileKEK{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	id := sha256.Sum256(append([]byte("customplugin key id"), key...))
	return fileKEK{hex.EncodeToString(id[:16]), aead}, err
}

// serve is the plugin: a ring of one key, the KMS service on it, and its socket.
func serve(ctx context.Context, endpoint string, kek envelope.KEK) error {
	ring, err := rotation.New(rotation.Config{Current: rotation.Key{KEK: kek}}, rotation.Options{})
	if err != nil {
		return err
	}
	svc, err := kmsv2.New(ring, kmsv2.Options{})
	if err != nil {
		return err
	}
	return kmsv2.ListenAndServe(ctx, endpoint, svc)
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: customplugin unix:///PATH/TO/SOCKET KEYFILE")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	key, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	kek, err := newFileKEK(key)
	if err != nil {
		log.Fatal(err)
	}
	if err := serve(ctx, os.Args[1], kek); err != nil {
		log.Fatal(err)
	}
}
