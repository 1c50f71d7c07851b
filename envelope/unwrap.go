package envelope

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"slices"
)

// parseDetached parses a copy of a header that nothing may follow. The copy is
// ours to keep, whatever the caller does to his, and bounded before it is made.
func parseDetached(header []byte) (parsedHeader, error) {
	n, err := headerSize(header)
	if err != nil {
		return parsedHeader{}, err
	}
	if n != len(header) {
		return parsedHeader{}, corrupt("header", "%d bytes after the header", len(header)-n)
	}
	return parseHeader(slices.Clone(header))
}

// unwrapHeader recovers the DEK of a header with the first wrap that u can
// unwrap, and verifies the header's tag. The caller wipes both results.
func unwrapHeader(ctx context.Context, u Unwrapper, p *parsedHeader) (dek []byte, s *secrets, err error) {
	var failed error
	for _, w := range p.wraps[:p.count] {
		if err := ctx.Err(); err != nil {
			return nil, nil, worthier(fromKEK("unwrap", string(w.keyID), err), failed)
		}
		// A blob of its own: what the Unwrapper returns is wiped, and must not turn
		// out to be a part of the header.
		dek, err := u.Unwrap(ctx, WrappedKey{KeyID: string(w.keyID), Algorithm: string(w.algorithm), Blob: slices.Clone(w.blob)})
		if err != nil {
			failed = worthier(failed, fromKEK("unwrap", string(w.keyID), err))
			continue
		}
		// The tag covers every wrap, so a DEK that does not verify it proves the
		// header bad: no other wrap could make it good.
		s, err := verifyHeader(p, dek, string(w.keyID))
		if err != nil {
			clear(dek)
			return nil, nil, err
		}
		return dek, s, nil
	}
	if errors.Is(failed, ErrUnknownKey) {
		failed = &Error{
			Class: ErrUnknownKey, Op: "unwrap", Key: string(p.wraps[0].keyID),
			Remedy: "configure the key that wrapped this data as one to read with",
		}
	}
	return nil, nil, failed
}

// verifyHeader checks that dek, unwrapped under the key keyID, is the DEK that p
// was written with.
func verifyHeader(p *parsedHeader, dek []byte, keyID string) (*secrets, error) {
	if len(dek) != DEKSize {
		return nil, notVerified(keyID, fmt.Errorf("a DEK of %d bytes, not %d", len(dek), DEKSize))
	}
	s, err := derive(dek, p.dekID())
	if err != nil {
		return nil, err
	}
	if tag := s.tag(p.signed()); !hmac.Equal(tag[:], p.tag()) {
		s.wipe()
		return nil, notVerified(keyID, errors.New("the header's tag does not match its content"))
	}
	return s, nil
}

func notVerified(keyID string, err error) error {
	return &Error{Class: ErrCorrupt, Op: "unwrap", Key: keyID, Err: err}
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
