package kmsv2

import (
	"net/url"
	"path/filepath"
	"strings"
)

// maxSocketName is the longest name that fits sockaddr_un on Linux: 108 bytes, of
// which one is a terminator (in front, for an abstract name).
const maxSocketName = 107

// endpoint is a parsed listening address.
type endpoint struct {
	name     string // as package net wants it: a path, or @NAME
	abstract bool
}

// parseEndpoint accepts what an API server accepts in an EncryptionConfiguration
// (contract rule 1), and refuses what it would silently misread: a host part, a
// query, a relative path.
func parseEndpoint(s string) (endpoint, error) {
	const op = "parse endpoint"
	const remedy = "write unix:///PATH, or unix:///@NAME for an abstract socket"
	if s == "" {
		return endpoint{}, invalid(op, remedy, "the endpoint is empty")
	}
	u, err := url.Parse(s)
	if err != nil {
		return endpoint{}, invalid(op, remedy, "%.200q is not a URL", s)
	}
	switch {
	case u.Scheme == "":
		return endpoint{}, invalid(op, remedy, "%.200q has no scheme", s)
	case u.Scheme != "unix":
		return endpoint{}, invalid(op, remedy, "%.200q has scheme %q: an API server speaks to a KMS plugin through a unix socket only", s, u.Scheme)
	case u.Host != "" || u.User != nil:
		return endpoint{}, invalid(op, remedy, "%.200q has two slashes, so that %q is read as a host", s, u.Host)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(s, "#"):
		return endpoint{}, invalid(op, remedy, "%.200q has a query or a fragment", s)
	case u.Path == "" || u.Path[0] != '/':
		return endpoint{}, invalid(op, remedy, "%.200q has no absolute path", s)
	case strings.ContainsRune(u.Path, 0):
		return endpoint{}, invalid(op, remedy, "%.200q contains a zero byte", s)
	}
	e := endpoint{name: u.Path}
	if name, ok := strings.CutPrefix(u.Path, "/@"); ok {
		if name == "" {
			return endpoint{}, invalid(op, remedy, "%.200q names no socket", s)
		}
		e = endpoint{name: "@" + name, abstract: true}
	} else if clean := filepath.Clean(u.Path); clean != u.Path {
		return endpoint{}, invalid(op, "write "+clean, "%.200q is not a clean path", s)
	} else if clean == "/" {
		return endpoint{}, invalid(op, remedy, "%.200q names a folder, not a socket", s)
	}
	if len(e.name) > maxSocketName {
		return endpoint{}, invalid(op, "choose a shorter path", "the socket's name is %d bytes, and the system allows %d", len(e.name), maxSocketName)
	}
	return e, nil
}
