// Customplugin is a Kubernetes KMS v2 plugin with a key-encryption key (KEK) of one's own:
// what a KEK has to do is in fileKEK, and everything else that a plugin needs comes from
// the library. Replace Wrap and Unwrap by calls to your vault. The tests beside it run the
// two conformance suites, envelope/kektest on the KEK and kmsv2/kmstest on the plugin.
//
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

var _ envelope.KEK = fileKEK{}

func (k fileKEK) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	if err := ctx.Err(); err != nil { // a vault's client does this by itself
		return envelope.WrappedKey{}, failed(envelope.ErrUnreachable, k.id, err)
	}
	return envelope.WrappedKey{KeyID: k.id, Algorithm: "A256GCM", Blob: k.aead.Seal(nil, nil, dek, nil)}, nil
}

func (k fileKEK) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	if w.KeyID != k.id {
		return nil, failed(envelope.ErrUnknownKey, w.KeyID, nil)
	}
	if err := ctx.Err(); err != nil {
		return nil, failed(envelope.ErrUnreachable, w.KeyID, err)
	}
	dek, err := k.aead.Open(nil, nil, w.Blob, nil)
	if err != nil || w.Algorithm != "A256GCM" {
		return nil, failed(envelope.ErrCorrupt, w.KeyID, err)
	}
	return dek, nil
}

// failed classifies an error: the class decides what the library does about it.
func failed(class error, key string, cause error) error {
	return &envelope.Error{Class: class, Op: "file KEK", Key: key, Err: cause}
}

func newFileKEK(path string) (envelope.KEK, error) {
	key, err := os.ReadFile(path)
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("%s must hold 32 random bytes: %d read, %v", path, len(key), err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(append([]byte("customplugin key id"), key...))
	return fileKEK{hex.EncodeToString(id[:16]), aead}, nil
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
	l, err := kmsv2.Listen(endpoint, kmsv2.ListenOptions{})
	if err != nil {
		return err
	}
	go svc.Run(ctx)
	return kmsv2.NewServer(svc, kmsv2.ServerOptions{}).Serve(ctx, l)
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: customplugin unix:///PATH/TO/SOCKET KEYFILE")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	kek, err := newFileKEK(os.Args[2])
	if err == nil {
		err = serve(ctx, os.Args[1], kek)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "customplugin:", err)
		os.Exit(1)
	}
}
