package kmsv2

import (
	"context"
	"errors"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// A write key is held over while the ring's writer is another that cannot wrap. The
// ring probes its writer, so about this key Run asks by itself: whether it still
// opens its own DEK.
const (
	heldOverInterval = 10 * time.Second
	heldOverTimeout  = 5 * time.Second
	// heldOverPause is the pace while a refusal waits for its confirmation, and the
	// least time between the two. Some seconds, because a vault's front ends do not
	// all learn of a change at once.
	heldOverPause = 3 * time.Second
	// heldOverForbidden is how long a missing permission must persist before it counts
	// as taken away: longer than a role assignment being replaced.
	heldOverForbidden = 30 * time.Second
	// heldOverBound is the longest time from the key being taken away to the refusal of
	// Status and Encrypt, if the vault answers.
	heldOverBound = heldOverInterval + heldOverForbidden + 2*(heldOverPause+heldOverTimeout)
)

// watchHeldOver verifies the live key while it is held over. It has a goroutine of
// its own: a slow answer about the new writer must not delay what is promised about
// the key in use.
func (s *Service) watchHeldOver(ctx context.Context) {
	var asked time.Time
	timer := time.NewTimer(heldOverPause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if k := s.keys.Load().live; k != nil && k.heldOver.Load() {
			now := s.o.Now()
			if k.unconfirmed() || now.Sub(later(asked, k.lastVerified())) >= heldOverInterval {
				asked = now
				s.verifyHeldOver(ctx, k)
			}
		}
		timer.Reset(heldOverPause)
	}
}

func (s *Service) verifyHeldOver(ctx context.Context, k *writeKey) {
	// An answer is true of the instant of the question at the earliest.
	began := s.o.Now()
	askCtx, cancel := context.WithTimeout(ctx, heldOverTimeout)
	defer cancel()
	opened, err := envelope.OpenHeader(askCtx, s.ring, k.currentDEK().header)
	if ctx.Err() != nil {
		return // the end of Run is no answer
	}
	before := k.takenAway()
	if err == nil {
		opened.Wipe()
		k.verify(began)
		if before != nil {
			s.log().Info("the key in use opens again", "key_id", k.keyID)
		}
		return
	}
	k.refuse(err, s.o.Now())
	if before == nil && k.takenAway() != nil {
		s.log().Error("KEY REVOKED, and the current key cannot wrap: nothing is sealed from now on", "key_id", k.keyID, "err", err,
			"remedy", "mend the current key; or, if this was not intended, enable or recover the one before, it is noticed by itself")
		return
	}
	if n, ok := s.failures.allow("held over", s.o.Now()); ok && before == nil {
		s.log().Warn("the key in use does not open", "key_id", k.keyID, "err", err, "not_logged_before", n)
	}
}

// refuse notes that the vault did not open the DEK. Only a definite refusal counts,
// and only once it is confirmed.
func (k *writeKey) refuse(err error, now time.Time) {
	patience := heldOverPause
	switch {
	case errors.Is(err, envelope.ErrRevoked):
	case errors.Is(err, envelope.ErrForbidden):
		patience = heldOverForbidden
	default:
		return // says nothing about the key
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refused.IsZero() {
		k.refused = now
	}
	if now.Sub(k.refused) >= patience {
		k.taken = err
	}
}

// unconfirmed reports a refusal that waits for its confirmation.
func (k *writeKey) unconfirmed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.refused.IsZero() && k.taken == nil
}

// takenAway returns why the key, held over, may not be used any more, or nil. Of a
// key that is the ring's writer the ring decides.
func (k *writeKey) takenAway() error {
	if !k.heldOver.Load() {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.taken
}
