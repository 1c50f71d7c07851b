package kmsv2

import (
	"errors"
	"fmt"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/rotation"
)

// mayWrite is why nothing may be sealed under k now, or nil.
func (s *Service) mayWrite(k *writeKey) error {
	if !k.admittedBy(s.ring) {
		return s.taken(k)
	}
	if err := k.takenAway(); err != nil {
		return revoked(k.keyID, err)
	}
	return s.outage(k)
}

// taken is the error for a key that the ring no longer admits.
func (s *Service) taken(k *writeKey) error {
	if h := s.ring.Health(); h.State == rotation.Revoked {
		return revoked(k.keyID, h.Err)
	}
	return &envelope.Error{
		Class: envelope.ErrRevoked, Op: "use key", Key: k.keyID, Err: errNoLongerConfigured,
		Remedy: "wait for the next Status to report the new key",
	}
}

// revoked is the error for a write key that was taken away. Its class is revoked,
// and not disabled or deleted: to an API server all of it means that nothing may be
// written. The cause tells the operator which.
func revoked(keyID string, cause error) error {
	return &envelope.Error{
		Class: envelope.ErrRevoked, Op: "use key", Key: keyID, Err: cause,
		Remedy: "if this was not intended, enable or recover the key or give the permission back; it is noticed by itself",
	}
}

var (
	errNoLongerConfigured = errors.New("no longer among the configured keys")
	errKeyMovedOn         = errors.New("the ring now wraps under another key id; the DEK in use is kept until that one is ready")
)

// outage is the error once the vault has been away for longer than the grace. The
// ring's probe speaks for its writer; for a key that stays in use because its
// successor cannot wrap, Run's own check does.
func (s *Service) outage(k *writeKey) error {
	h := s.ring.Health()
	heldOver := k.heldOver.Load()
	if !heldOver && (h.State == rotation.Healthy || h.State == rotation.Expired || h.Err == nil) {
		return nil
	}
	since := k.lastVerified()
	if !heldOver {
		since = later(since, h.LastOK)
	}
	away := s.o.Now().Sub(since)
	if away <= s.o.OutageGrace {
		return nil
	}
	class := envelope.ErrUnreachable
	var typed *envelope.Error
	if errors.As(h.Err, &typed) {
		class = typed.Class
	}
	return &envelope.Error{
		Class: class, Op: "use key", Key: k.keyID,
		// As text: a probe met it, and it must not lend this error another class.
		Err:    fmt.Errorf("no good answer from the vault since %s, longer than the outage grace of %v: %v", since.UTC().Format(time.RFC3339), s.o.OutageGrace, h.Err),
		Remedy: "bring the vault back, or raise the outage grace",
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
