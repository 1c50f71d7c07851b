package kmstest_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"

	"github.com/keyfold/keyfold/kmsv2/kmstest"
)

// fragile is a listener that gives up when somebody does not speak HTTP/2.
type fragile struct{ net.Listener }

func (l fragile) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	first := make([]byte, 3)
	if _, err := io.ReadFull(conn, first); err != nil || string(first) != "PRI" {
		l.Close()
		conn.Close()
		return nil, errors.New("what was that?")
	}
	return &rewound{conn, bytes.NewReader(first)}, nil
}

// rewound is a connection whose first bytes have been looked at.
type rewound struct {
	net.Conn
	first *bytes.Reader
}

func (c *rewound) Read(b []byte) (int, error) {
	if c.first.Len() > 0 {
		return c.first.Read(b)
	}
	return c.Conn.Read(b)
}

func TestFragileListener(t *testing.T) {
	path := socketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, fragile{l}, newMemory())
	client, err := kmstest.Dial("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	results := kmstest.Check(t.Context(), client, kmstest.Options{})
	if got := failed(results); !slices.Equal(got, []string{"wire-garbage"}) {
		t.Errorf("caught by %q, want wire-garbage alone", got)
	}
}
