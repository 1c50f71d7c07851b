package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
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

// TestKeyFile: a key file that is missing or of another size is refused.
func TestKeyFile(t *testing.T) {
	for name, key := range map[string][]byte{"missing": nil, "empty": {}, "short": make([]byte, 31), "long": make([]byte, 33)} {
		path := filepath.Join(t.TempDir(), "kek.bin")
		if name != "missing" {
			write(t, path, key)
		}
		if kek, err := newFileKEK(path); err == nil || kek != nil {
			t.Errorf("%s: %v, %v; want an error", name, kek, err)
		}
	}
}

func newKEK(t *testing.T) envelope.KEK {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	path := filepath.Join(t.TempDir(), "kek.bin")
	write(t, path, key)
	kek, err := newFileKEK(path)
	if err != nil {
		t.Fatal(err)
	}
	return kek
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
