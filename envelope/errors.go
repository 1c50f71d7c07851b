package envelope

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The classes of failure, matched with errors.Is. Every error of this module that
// concerns a key or stored data is of one of them; [Error] carries the details.
// A policy decides by class alone, never by message text.
var (
	// ErrUnreachable: DNS, TCP, TLS, a time-out, a 5xx, the token endpoint, a
	// firewall. Worth a retry; says nothing about the key.
	ErrUnreachable error = &class{name: "key store unreachable"}
	// ErrThrottled: the vault asks for patience (HTTP 429).
	ErrThrottled error = &class{name: "throttled by the key store"}
	// ErrUnauthenticated: the vault does not accept who we are.
	ErrUnauthenticated error = &class{name: "not authenticated to the key store"}
	// ErrForbidden: a role or an access policy is missing.
	ErrForbidden error = &class{name: "operation forbidden by the key store"}
	// ErrExpired: past the key's expiry. It wraps nothing new and still unwraps.
	ErrExpired error = &class{name: "key expired"}
	// ErrNotYetValid: before the key's not-before date.
	ErrNotYetValid error = &class{name: "key not yet valid"}
	// ErrRevoked: the key was taken away. ErrDisabled and ErrDeleted are
	// revoked as well: errors.Is(ErrDisabled, ErrRevoked).
	ErrRevoked error = &class{name: "key revoked"}
	// ErrDisabled: somebody disabled the key; enabling it brings it back.
	ErrDisabled error = &class{name: "key disabled", parent: ErrRevoked}
	// ErrDeleted: the key or this version is deleted, purged, or was never there.
	ErrDeleted error = &class{name: "key deleted or not found", parent: ErrRevoked}
	// ErrCorrupt: stored data is not what was written: a bad header, tag,
	// ciphertext or associated data. Never retried, never counted as health.
	ErrCorrupt error = &class{name: "data corrupt or not authentic"}
	// ErrUnknownKey: no configured key made this. Decided without a network call.
	ErrUnknownKey error = &class{name: "unknown key"}
	// ErrInvalid: the caller's argument cannot be right: overlapping buffers, a
	// message beyond the limit, a configuration that contradicts itself.
	ErrInvalid error = &class{name: "invalid argument"}
)

// classes are all of them, the narrower before the wider.
var classes = []error{
	ErrUnreachable, ErrThrottled, ErrUnauthenticated, ErrForbidden, ErrExpired, ErrNotYetValid,
	ErrDisabled, ErrDeleted, ErrRevoked, ErrCorrupt, ErrUnknownKey, ErrInvalid,
}

// class is a sentinel that may belong to a wider one.
type class struct {
	name   string
	parent error
}

func (c *class) Error() string { return c.name }
func (c *class) Unwrap() error { return c.parent }

// Error is the typed error: what was being done, to which key, and what the
// operator can do about it. It never holds key bytes, tokens or plaintext.
type Error struct {
	// Class is one of the sentinels above and is never nil.
	Class error
	// Op is what was being done: "unwrap", "open".
	Op string
	// Key is the key's id or full name, where one is known.
	Key string
	// Status is the HTTP status, or zero.
	Status int
	// Code is the service's code or the PKCS#11 CKR name; InnerCode is Key
	// Vault's inner code.
	Code, InnerCode string
	// RequestID is the vault's own id of the request, for its support and logs.
	RequestID string
	// Remedy is what an operator can do, as a sentence.
	Remedy string
	// Err is the cause, or nil.
	Err error
}

// Error returns one line: operation, key, class, cause, codes and remedy.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op + ": ")
	}
	if e.Key != "" {
		b.WriteString("key " + e.Key + ": ")
	}
	b.WriteString(e.Class.Error())
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	var details []string
	if e.Status != 0 {
		details = append(details, "HTTP "+strconv.Itoa(e.Status))
	}
	for _, d := range []struct{ label, value string }{
		{"", e.Code}, {"", e.InnerCode}, {"request ", e.RequestID},
	} {
		if d.value != "" {
			details = append(details, d.label+d.value)
		}
	}
	if len(details) > 0 {
		b.WriteString(" (" + strings.Join(details, ", ") + ")")
	}
	if e.Remedy != "" {
		b.WriteString("; remedy: " + e.Remedy)
	}
	return b.String()
}

// Unwrap lets errors.Is and errors.As see both the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Err}
}

func corrupt(op, format string, args ...any) error {
	return &Error{Class: ErrCorrupt, Op: op, Err: fmt.Errorf(format, args...)}
}

func invalid(op, format string, args ...any) error {
	return &Error{Class: ErrInvalid, Op: op, Err: fmt.Errorf(format, args...)}
}

// fromKEK makes sure that the error of a KEK is an [Error]. A back end that says
// more than a class is left alone, and of an error without any we know only that
// the key could not be used.
func fromKEK(op, key string, err error) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	e := &Error{Class: ErrUnreachable, Op: op, Key: key, Err: err}
	for _, c := range classes {
		if errors.Is(err, c) {
			e.Class = c
			break
		}
	}
	if err == e.Class {
		e.Err = nil // the class says it all
	}
	return e
}
