package envelope

import "context"

// WrappedKey is a data-encryption key (DEK) encrypted under a key-encryption
// key (KEK). It holds no secret and may be stored anywhere.
type WrappedKey struct {
	// KeyID names the KEK and its version, see [KeyID]. It is 1 to
	// [MaxKeyIDSize] bytes.
	KeyID string
	// Algorithm is how Blob was made, such as "RSA-OAEP-256". It is 1 to
	// [MaxAlgorithmSize] bytes. An Unwrapper checks it against what the
	// configured key allows and never lets it choose.
	Algorithm string
	// Blob is the encrypted DEK, with whatever the algorithm needs beside it
	// (a nonce, a tag). It is 1 to [MaxBlobSize] bytes.
	Blob []byte
}

// A Wrapper encrypts data-encryption keys under a key that it never reveals.
//
// Wrap must not keep or change dek: the caller goes on using those bytes. It
// must be safe for concurrent use and return within the deadline of ctx.
type Wrapper interface {
	Wrap(ctx context.Context, dek []byte) (WrappedKey, error)
}

// An Unwrapper recovers data-encryption keys.
//
// Unwrap answers [ErrUnknownKey], without a network call, for a key that is
// not its own, and [ErrCorrupt] for a blob or algorithm that its key could not
// have made. It must not keep or change w.Blob, and the returned slice belongs
// to the caller, who wipes it. It must be safe for concurrent use.
type Unwrapper interface {
	Unwrap(ctx context.Context, w WrappedKey) (dek []byte, err error)
}

// A KEK wraps and unwraps. Most code takes a KEK; an offline recovery recipient
// is a Wrapper alone and a retired key an Unwrapper alone.
type KEK interface {
	Wrapper
	Unwrapper
}
