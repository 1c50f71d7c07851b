package kmsv2

import (
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

const peersKnown = true

// peerOf returns the credentials that the peer had when it connected.
func peerOf(conn *net.UnixConn) (peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var p peer
	var sockErr error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			sockErr = fmt.Errorf("SO_PEERCRED: %w", err)
			return
		}
		p = peer{pid: cred.Pid, uid: cred.Uid, groups: append([]uint32{cred.Gid}, peerGroups(fd)...)}
	})
	if err == nil {
		err = sockErr
	}
	return p, err
}

// peerGroups returns the peer's supplementary groups. Where the kernel does not
// tell (before Linux 4.13), or there are more than any user has, only the primary
// group counts.
func peerGroups(fd uintptr) []uint32 {
	groups := make([]uint32, 1024)
	size := uint32(len(groups)) * 4
	// x/sys has the option's number but no call that returns a list.
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return nil
	}
	return groups[:size/4]
}
