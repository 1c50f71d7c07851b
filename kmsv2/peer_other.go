//go:build !linux

package kmsv2

import (
	"errors"
	"net"
)

// Kubernetes API servers run on Linux. Elsewhere the package builds, for programs
// that use the Service in process and for editors; it does not open a socket that
// it could not guard.
const peersKnown = false

func peerOf(*net.UnixConn) (peer, error) { return peer{}, errors.ErrUnsupported }
