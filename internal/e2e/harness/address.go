package harness

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
)

// Ports are taken from below the range that Linux gives to outgoing connections
// (32768 and up): a port has to stay free while its process is dead, and one of
// the many clients would take it sooner or later.
const (
	firstPort = 20000
	lastPort  = 32767
)

// nextPort begins anywhere, so that two test runs at the same time rarely meet.
var nextPort = func() *atomic.Int64 {
	var n atomic.Int64
	n.Store(rand.Int64N(lastPort - firstPort + 1))
	return &n
}()

// freeAddress returns a loopback address that nobody listens on, and never the
// same twice.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range lastPort - firstPort + 1 {
		port := firstPort + int(nextPort.Add(1)-1)%(lastPort-firstPort+1)
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port is free on loopback")
	return ""
}
