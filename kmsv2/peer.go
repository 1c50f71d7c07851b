package kmsv2

import (
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// maxConnections bounds the connections at one time. An API server holds one for
// each provider; with maxStreams it bounds the requests under way.
const maxConnections = 64

// peer is who the kernel says has connected.
type peer struct {
	pid    int32
	uid    uint32
	groups []uint32 // primary first
}

// guard decides who may talk to the socket.
type guard struct {
	uids     []uint32
	hasGroup bool
	gid      uint32
	log      *slog.Logger
}

func newGuard(o ListenOptions) (*guard, error) {
	if !peersKnown {
		return nil, invalid("listen", "run on Linux", "this system does not say who connects to a socket")
	}
	g := &guard{log: o.Logger}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.uids = append([]uint32{0, uint32(os.Geteuid())}, o.AllowUIDs...)
	if o.Group != "" {
		gid, err := lookupGroup(o.Group)
		if err != nil {
			return nil, err
		}
		g.hasGroup, g.gid = true, gid
	}
	return g, nil
}

func (g *guard) admits(p peer) bool {
	return slices.Contains(g.uids, p.uid) || g.hasGroup && slices.Contains(p.groups, g.gid)
}

// guardedListener hands on only the connections of peers that its guard admits.
type guardedListener struct {
	*net.UnixListener
	guard   *guard
	slots   chan struct{}
	closing chan struct{}
	close   sync.Once
	remove  func() // removes the socket's file, or nil

	refusals limiter
}

var _ net.Listener = (*guardedListener)(nil)

func newGuardedListener(l *net.UnixListener, g *guard, remove func()) *guardedListener {
	return &guardedListener{
		UnixListener: l, guard: g, remove: remove,
		slots: make(chan struct{}, maxConnections), closing: make(chan struct{}),
		refusals: limiter{every: 10 * time.Second},
	}
}

// Accept returns the next admitted connection. Others are closed without a word.
func (l *guardedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closing:
		return nil, net.ErrClosed
	}
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			<-l.slots
			return nil, err
		}
		p, err := peerOf(conn)
		if err == nil && l.guard.admits(p) {
			return &slotConn{UnixConn: conn, slots: l.slots}, nil
		}
		conn.Close()
		if n, ok := l.refusals.allow("", time.Now()); ok {
			l.guard.log.Warn("refused a connection to the KMS socket", "uid", p.uid, "pid", p.pid, "err", err, "refusedBefore", n,
				"remedy", "allow the user by its uid or through the socket's group, if it is an API server")
		}
	}
}

// Close stops listening and removes the socket's file, if there is one.
func (l *guardedListener) Close() error {
	err := net.ErrClosed
	l.close.Do(func() {
		close(l.closing)
		if l.remove != nil {
			l.remove()
		}
		err = l.UnixListener.Close()
	})
	return err
}

// slotConn gives its listener's slot back when it is closed.
type slotConn struct {
	*net.UnixConn
	slots chan struct{}
	close sync.Once
}

func (c *slotConn) Close() error {
	c.close.Do(func() { <-c.slots })
	return c.UnixConn.Close()
}
