package rotation

import (
	"errors"
	"fmt"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// A State is what the ring's own probe last found.
type State int

const (
	// Unknown: no answer from the key store yet. Health.Err says why, if a probe
	// has been tried.
	Unknown State = iota
	// Healthy: the key wraps and unwraps.
	Healthy
	// Expired: the key wraps nothing new (past its expiry, or before its not-before
	// date) and unwraps, as far as this process has had anything to unwrap.
	Expired
	// Unavailable: the key cannot be used now, which says nothing final about it:
	// unreachable, throttled, not authenticated, or a refusal not yet confirmed.
	Unavailable
	// Revoked: the key was taken away, confirmed. Nothing opens or seals under it
	// until a later probe works.
	Revoked
)

// String returns the state in lower case, fit for a log or a metric label.
func (s State) String() string {
	switch s {
	case Unknown:
		return "unknown"
	case Healthy:
		return "healthy"
	case Expired:
		return "expired"
	case Unavailable:
		return "unavailable"
	case Revoked:
		return "revoked"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// Health is what is known of one key.
type Health struct {
	State State
	// Err is what the last probe met, with its remedy; nil when Healthy.
	Err error
	// Since is when State began, and LastOK when a probe last found the key Healthy
	// or Expired, from which an outage is counted. Zero: never.
	Since, LastOK time.Time
}

const (
	// confirmAfter is the least time between a first refusal and the one that
	// confirms it, and the pace of probes while one is open. Some seconds, because a
	// vault's front ends do not all learn of a change at once.
	confirmAfter = 3 * time.Second
	// forbiddenAfter is how long a key that worked must be forbidden before it counts
	// as taken away: longer than a role assignment being replaced.
	forbiddenAfter = 30 * time.Second
)

// record is a member's health and the refusals that are not yet confirmed.
type record struct {
	Health
	refused   time.Time // first disabled or deleted since the last good answer
	forbidden time.Time // first refusal of any kind since the last good answer
}

// next is the whole policy: what a probe that ended with err at now makes of a
// record. Only an answer that shows the key at work clears an open refusal. One
// that says nothing about the key (an outage, throttling) neither confirms nor
// clears it.
func (r record) next(err error, now time.Time) record {
	n := record{Health: Health{Err: err, Since: r.Since, LastOK: r.LastOK}, refused: r.refused, forbidden: r.forbidden}
	first := func(t time.Time) time.Time {
		if t.IsZero() {
			return now
		}
		return t
	}
	switch {
	case err == nil:
		n.State, n.LastOK = Healthy, now
		n.refused, n.forbidden = time.Time{}, time.Time{}
	case errors.Is(err, envelope.ErrExpired), errors.Is(err, envelope.ErrNotYetValid):
		n.State, n.LastOK = Expired, now
		n.refused, n.forbidden = time.Time{}, time.Time{}
	case errors.Is(err, envelope.ErrRevoked):
		n.refused, n.forbidden = first(r.refused), first(r.forbidden)
		n.State = Unavailable
		if now.Sub(n.refused) >= confirmAfter {
			n.State = Revoked
		}
	case errors.Is(err, envelope.ErrForbidden):
		n.forbidden = first(r.forbidden)
		n.State = Unavailable
		// A key that never worked here is a role not yet granted, not a key taken away.
		if now.Sub(n.forbidden) >= forbiddenAfter && !r.LastOK.IsZero() {
			n.State = Revoked
		}
	case r.State == Unknown && errors.Is(err, envelope.ErrUnreachable):
		n.State = Unknown
	default:
		n.State = Unavailable
	}
	// Revoked fails closed: only an answer that shows the key at work ends it.
	if r.State == Revoked && n.State != Healthy && n.State != Expired {
		n.State = Revoked
	}
	if n.State != r.State {
		n.Since = now
	}
	return n
}

// open reports a refusal that waits for its confirmation.
func (r record) open() bool {
	return r.State == Unavailable && (!r.refused.IsZero() || !r.forbidden.IsZero() && !r.LastOK.IsZero())
}
