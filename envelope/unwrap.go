package envelope

import (
	"context"
	"crypto/hmac"
	"errors"
)

// parseDetached parses a header that nothing follows.
func parseDetached(header []byte) (parsedHeader, error) {
	p, err := parseHeader(header)
	if err == nil && len(p.raw) != len(header) {
		err = corrupt("header", "%d bytes after the header", len(header)-len(p.raw))
	}
	return p, err
}

// unwrapHeader recovers the DEK of a header with the first wrap that u can
// unwrap, and verifies the header's tag. The caller wipes both results.
func unwrapHeader(ctx context.Context, u Unwrapper, p *parsedHeader) (dek []byte, s *secrets, err error) {
	var failed error
	for _, w := range p.wraps[:p.count] {
		if err := ctx.Err(); err != nil {
			return nil, nil, worthier(fromKEK("unwrap", string(w.keyID), err), failed)
		}
		dek, err := u.Unwrap(ctx, WrappedKey{KeyID: string(w.keyID), Algorithm: string(w.algorithm), Blob: w.blob})
		if err != nil {
			failed = worthier(failed, fromKEK("unwrap", string(w.keyID), err))
			continue
		}
		// The tag covers every wrap, so a DEK that does not verify it proves the
		// header bad: no other wrap could make it good.
		s, err := verifyHeader(p, dek)
		if err != nil {
			clear(dek)
			return nil, nil, err
		}
		return dek, s, nil
	}
	if errors.Is(failed, ErrUnknownKey) {
		failed = &Error{
			Class: ErrUnknownKey, Op: "unwrap", Key: string(p.wraps[0].keyID),
			Remedy: "configure the key that wrapped this data as a key to read with",
			Err:    failed,
		}
	}
	return nil, nil, failed
}

// verifyHeader checks that dek is the one that p was written with.
func verifyHeader(p *parsedHeader, dek []byte) (*secrets, error) {
	if len(dek) != DEKSize {
		return nil, corrupt("unwrap", "a DEK of %d bytes, not %d", len(dek), DEKSize)
	}
	s, err := derive(dek, p.dekID())
	if err != nil {
		return nil, err
	}
	if tag := s.tag(p.signed()); !hmac.Equal(tag[:], p.tag()) {
		s.wipe()
		return nil, corrupt("open", "the header's tag does not match its content")
	}
	return s, nil
}

// worthier returns the error that says more about what to do: wait, see to a
// key, or give the data up. The first of equals wins.
func worthier(a, b error) error {
	if b == nil || a != nil && rank(a) >= rank(b) {
		return a
	}
	return b
}

func rank(err error) int {
	switch {
	case errors.Is(err, ErrUnknownKey):
		return 0
	case errors.Is(err, ErrCorrupt):
		return 1
	case errors.Is(err, ErrUnreachable), errors.Is(err, ErrThrottled), errors.Is(err, ErrUnauthenticated):
		return 3
	default:
		return 2
	}
}
