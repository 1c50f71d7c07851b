package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"testing"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/envelope/kektest"
	"github.com/keyfold/keyfold/kmsv2/kmstest"
)

// TestKEK: the key keeps what package envelope promises about keys.
func TestKEK(t *testing.T) {
	kektest.Run(t, func(t *testing.T) kektest.Subject {
		return kektest.Subject{KEK: newKEK(t), Foreign: newKEK(t)}
	})
}

// TestPlugin: the plugin made of it keeps the contract with API servers.
func TestPlugin(t *testing.T) {
	kek := newKEK(t)
	endpoint := fmt.Sprintf("unix:///@keyfold-customplugin-%d", os.Getpid())
	start := func() (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- serve(ctx, endpoint, kek) }()
		return func() {
			cancel()
			if err := <-served; err != nil {
				t.Errorf("serve: %v", err)
			}
		}
	}
	stop := start()
	defer func() { stop() }()
	kmstest.Run(t, endpoint, kmstest.Options{
		Restart: func(context.Context) error {
			stop()
			stop = start()
			return nil
		},
	})
}

// TestKeySize: a key of another size is refused.
func TestKeySize(t *testing.T) {
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := newFileKEK(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes was accepted", n)
		}
	}
}

func newKEK(t *testing.T) envelope.KEK {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	kek, err := newFileKEK(key)
	if err != nil {
		t.Fatal(err)
	}
	return kek
}
