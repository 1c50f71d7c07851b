package envelope

import (
	"context"
	"errors"
)

// A KeySource finds the verified key of a header. A cache of opened keys is one.
// It answers as [OpenHeader] does, in every error class, and is safe for
// concurrent use.
type KeySource interface {
	OpenKey(ctx context.Context, header []byte) (*OpenKey, error)
}

// An Opener opens envelopes. It is safe for concurrent use.
type Opener struct {
	keys KeySource
	// once: a key serves one call and is wiped after it.
	once bool
}

// NewOpener returns an Opener that asks u once for each envelope. Where that is
// a remote call, put a cache between, see [NewOpenerFrom].
func NewOpener(u Unwrapper) *Opener { return &Opener{keys: unwrapEach{u}, once: true} }

// NewOpenerFrom returns an Opener that takes its keys from a source such as a
// cache, which owns them.
func NewOpenerFrom(keys KeySource) *Opener { return &Opener{keys: keys} }

// unwrapEach is the KeySource that remembers nothing.
type unwrapEach struct{ u Unwrapper }

var _ KeySource = unwrapEach{}

func (e unwrapEach) OpenKey(ctx context.Context, header []byte) (*OpenKey, error) {
	return OpenHeader(ctx, e.u, header)
}

// Open decrypts a self-contained envelope. aad must be what was given to Seal.
//
// What is malformed or not authentic is [ErrCorrupt]; a malformed envelope fails
// before any key is asked for. An envelope of nobody's key known here is
// [ErrUnknownKey]. Other classes are the KEK's.
func (o *Opener) Open(ctx context.Context, env, aad []byte) ([]byte, error) {
	header, message, err := Split(env)
	if err != nil {
		return nil, err
	}
	return o.OpenDetached(ctx, header, message, aad)
}

// AppendOpen is [Opener.Open] appending the plaintext to dst. The spare capacity
// of dst must not overlap env or aad ([ErrInvalid]); after a failure it holds no
// plaintext.
func (o *Opener) AppendOpen(ctx context.Context, dst, env, aad []byte) ([]byte, error) {
	header, message, err := Split(env)
	if err != nil {
		return nil, err
	}
	return o.AppendOpenDetached(ctx, dst, header, message, aad)
}

// OpenDetached is [Opener.Open] for a header stored apart from its message.
func (o *Opener) OpenDetached(ctx context.Context, header, message, aad []byte) ([]byte, error) {
	return o.open(ctx, nil, header, message, aad)
}

// AppendOpenDetached is [Opener.AppendOpen] for a header stored apart from its
// message.
func (o *Opener) AppendOpenDetached(ctx context.Context, dst, header, message, aad []byte) ([]byte, error) {
	if err := checkDst("open", dst, header, message, aad); err != nil {
		return nil, err
	}
	return o.open(ctx, dst, header, message, aad)
}

// open is the one path of all four. dst is checked, and nil if the result is to be
// allocated.
func (o *Opener) open(ctx context.Context, dst, header, message, aad []byte) ([]byte, error) {
	if err := checkMessage(message); err != nil {
		return nil, err
	}
	// A cache may drop a key between handing it out and its use here. It is
	// asked again then, but not for ever.
	for try := 0; ; try++ {
		key, err := o.keys.OpenKey(ctx, header)
		if err != nil {
			return nil, err
		}
		if dst == nil {
			dst = newPlaintext(message)
		}
		plaintext, err := key.open(dst, message, aad)
		if o.once {
			key.Wipe()
		}
		if err == nil || try == 2 || !errors.Is(err, errWiped) {
			return plaintext, err
		}
	}
}
