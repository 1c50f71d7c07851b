package envelope

import (
	"context"
	"time"
)

// KeyInfo describes one version of a KEK.
type KeyInfo struct {
	// ID is the KeyID that a wrap under this version carries.
	ID string
	// Name is the full name for people, such as a Key Vault URL. It is never
	// stored with data.
	Name string
	// Version is the version part of the name, empty for a key without versions.
	Version string
	// Algorithm is the wrap algorithm, as in WrappedKey.
	Algorithm string
	// Enabled is false for a key that its vault refuses to use.
	Enabled bool
	// Created, NotBefore and Expires are zero where the vault sets none.
	Created, NotBefore, Expires time.Time
}

// Identifier is the optional capability to tell the KeyID that Wrap writes,
// without a network call. A KEK pinned to one version has it.
type Identifier interface {
	KeyID() string
}

// FamilyIdentifier is the optional capability to tell the [KeyID.Family] of every
// wrap of the key, without a network call. It is what a KEK that is not pinned can
// tell of its ids beforehand.
type FamilyIdentifier interface {
	KeyFamily() string
}

// Describer is the optional capability to describe the version that Wrap uses
// now, as an attribute read that uses no key.
type Describer interface {
	Describe(ctx context.Context) (KeyInfo, error)
}

// VersionLister is the optional capability to list every version of the key,
// in no particular order.
type VersionLister interface {
	Versions(ctx context.Context) ([]KeyInfo, error)
}

// Pinner is the optional capability to fix the version that Wrap uses. Real
// wraps name one; a versionless wrap is only a discovery probe. The pinned KEK
// unwraps whatever its parent unwraps. Pinning makes no network call.
type Pinner interface {
	Pin(version string) (KEK, error)
}

// Prober is the optional capability to check, more cheaply than a wrap, that
// the back end can be reached and the key used.
type Prober interface {
	Probe(ctx context.Context) error
}

// A Decorator is a KEK around a KEK (a ring, metrics, tracing). It exposes what
// it wraps so that [As] finds the capabilities it would otherwise hide.
type Decorator interface {
	Underlying() KEK
}

// As finds the first value in k's chain of decorators that has capability T, as
// errors.As does for errors:
//
//	if d, ok := envelope.As[envelope.Describer](kek); ok { ... }
//
// The capability to close, for a KEK that holds connections or sessions, is
// io.Closer: whoever opened such a KEK closes it, and nothing in this module does.
func As[T any](k any) (T, bool) {
	for k != nil {
		if t, ok := k.(T); ok {
			return t, true
		}
		d, ok := k.(Decorator)
		if !ok {
			break
		}
		k = d.Underlying()
	}
	var zero T
	return zero, false
}

type requestIDKey struct{}

// WithRequestID returns a context that carries the id of the request being
// served, so that a back end can send it to its vault and one id leads from an
// API server's log to the vault's.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns the id set by [WithRequestID], or "".
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}
