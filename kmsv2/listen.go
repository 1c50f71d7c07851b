package kmsv2

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// ListenOptions say who may connect beside root and the user of this process.
type ListenOptions struct {
	// Group is a group's name or number. Its members may connect, whether it is
	// their primary group or another of theirs; a socket with a path gets mode 0660
	// and this group instead of 0600.
	Group string
	// AllowUIDs are further users. The mode of a socket with a path must let them in
	// too, through Group; on an abstract socket, which has no mode, the list is enough.
	AllowUIDs []uint32
	// Logger receives refused peers; nil discards them.
	Logger *slog.Logger
}

// Listen opens the unix socket of a KMS plugin: endpoint is unix:///PATH, or
// unix:///@NAME for an abstract socket.
//
// The socket opens everything that was ever sealed, so it is guarded twice. The
// file has mode 0600, or 0660 with a group, from the instant it exists, in a folder
// that nobody else can write, up to the root: whoever can replace the socket gets
// the API server's keys. That refuses /tmp as well, where anybody can take the name
// while the plugin is down. And the kernel's word on who connects (SO_PEERCRED) is
// checked for each connection; for an abstract socket it is the only guard, and
// any process in the network namespace can try, or take the name while it is free.
//
// A socket that a killed process left behind is removed, once it is shown that it
// is a socket, that it is ours or root's, and that nobody listens on it. Two
// processes that start at once cannot remove each other's. Anything else under the
// name is an error and stays. Close removes the socket if it is still the same.
func Listen(endpoint string, o ListenOptions) (net.Listener, error) {
	e, err := parseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	guard, err := newGuard(o)
	if err != nil {
		return nil, err
	}
	if len(o.AllowUIDs) > 0 && o.Group == "" && !e.abstract {
		guard.log.Warn("users are allowed on the KMS socket, but its mode 0600 keeps them out", "socket", e.name,
			"remedy", "give the socket a group that they are in")
	}
	if e.abstract {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: e.name})
		if err != nil {
			return nil, listenError(e.name, err)
		}
		return newGuardedListener(l, guard, nil), nil
	}
	return listenPath(e.name, guard)
}

func listenPath(path string, guard *guard) (net.Listener, error) {
	folder := filepath.Dir(path)
	if err := checkFolder("listen", folder); err != nil {
		return nil, err
	}
	unlock, err := lockFolder(folder)
	if err != nil {
		return nil, listenError(path, err)
	}
	defer unlock()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The mode of the socket's file is the mode of the socket's descriptor less the
	// umask. Set before bind, there is no instant at which others could connect, and
	// no umask to change, which would be the whole process's.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if ctlErr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); ctlErr != nil {
			return ctlErr
		}
		return err
	}}
	listener, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, listenError(path, err)
	}
	l := listener.(*net.UnixListener)
	// Package net would remove whatever has the name by then.
	l.SetUnlinkOnClose(false)
	made, err := admitGroup(path, guard)
	if err != nil {
		l.Close()
		os.Remove(path)
		return nil, listenError(path, err)
	}
	return newGuardedListener(l, guard, func() { removeOwn(path, made) }), nil
}

// admitGroup widens the mode of the fresh socket for the group, group first, and
// verifies the result.
func admitGroup(path string, guard *guard) (made fs.FileInfo, err error) {
	mode := fs.FileMode(0o600)
	if guard.hasGroup {
		if err := os.Chown(path, -1, int(guard.gid)); err != nil {
			return nil, fmt.Errorf("give the socket to group %d: %w", guard.gid, err)
		}
		mode = 0o660
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, err
	}
	made, err = os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if got := made.Mode(); got.Type() != fs.ModeSocket || got.Perm() != mode {
		return nil, fmt.Errorf("the socket has mode %v, not %v", got, fs.ModeSocket|mode)
	}
	return made, nil
}

// removeStale removes a socket that nobody listens on. The caller holds the
// folder's lock, so that no other process of ours is between its own check and its
// bind.
func removeStale(path string) error {
	before, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return listenError(path, err)
	}
	if before.Mode().Type() != fs.ModeSocket {
		return invalid("listen", "remove it, or choose another path", "%s exists and is not a socket but %v", path, before.Mode())
	}
	if uid, ok := ownerOf(before); !ok || !trusted(uid) {
		return invalid("listen", "find out who made it, and remove it", "the socket %s belongs to user %d", path, uid)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return invalid("listen", "stop the process that listens there, or choose another path", "another process listens on %s", path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // its owner has just removed it
	}
	// Refused is the kernel's word that no listener holds this socket any more. A
	// full queue or a missing permission is not.
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return listenError(path, fmt.Errorf("cannot tell whether anybody listens: %w", err))
	}
	after, err := os.Lstat(path)
	if err != nil || !os.SameFile(before, after) {
		return invalid("listen", "start once more", "%s changed while it was looked at", path)
	}
	if err := os.Remove(path); err != nil {
		return listenError(path, err)
	}
	return nil
}

// removeOwn removes the socket that this process made, unless another has taken
// its place. Without the lock it is left: the next start finds it stale.
func removeOwn(path string, made fs.FileInfo) {
	unlock, err := lockFolder(filepath.Dir(path))
	if err != nil {
		return
	}
	defer unlock()
	if now, err := os.Lstat(path); err == nil && os.SameFile(made, now) {
		os.Remove(path)
	}
}

func listenError(path string, err error) error {
	remedy := "see that the folder exists and that this user may write it"
	if errors.Is(err, syscall.EADDRINUSE) {
		remedy = "stop the process that listens there, or choose another path"
	}
	return invalid("listen", remedy, "%s: %w", path, err)
}

// lookupGroup finds a group by number or name.
func lookupGroup(name string) (uint32, error) {
	if gid, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(gid), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, invalid("listen", "name a group of this machine, or give its number", "group %q: %w", name, err)
	}
	gid, err := strconv.ParseUint(g.Gid, 10, 32)
	if err != nil {
		return 0, invalid("listen", "give the group's number", "group %q has id %q", name, g.Gid)
	}
	return uint32(gid), nil
}
