package cache

import (
	"crypto/sha256"
	"errors"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/keyfold/keyfold/envelope"
)

// digest is SHA-256 over all of a header that is not verified. Nothing less may
// name it: by its DEK id, a forged header could be made to answer for a good one.
type digest = [sha256.Size]byte

// maxFailures bounds the memory of failures, apart from the keys: a flood of
// forged headers must not cost good ones their place.
const maxFailures = 1024

// failureMemory answers for headers that have just been shown not to open, so that
// one bad object, asked for again and again, is not one remote call each time. It
// is guarded by Cache.mu.
type failureMemory struct {
	ttl time.Duration
	lru *simplelru.LRU[digest, failure]
}

type failure struct {
	err        error
	until      time.Time
	generation uint64
}

func newFailureMemory(ttl time.Duration) (failureMemory, error) {
	lru, err := simplelru.NewLRU[digest, failure](maxFailures, nil)
	return failureMemory{ttl: ttl, lru: lru}, err
}

// recall returns the failure remembered for a header, or nil. One from another
// generation of the gate is forgotten: the key may have been configured or given
// back since.
func (m *failureMemory) recall(d digest, generation uint64, now time.Time) error {
	f, ok := m.lru.Peek(d)
	if !ok {
		return nil
	}
	if f.generation != generation || !now.Before(f.until) {
		m.lru.Remove(d)
		return nil
	}
	return f.err
}

// remember keeps a definite failure of a load that began at generation.
func (m *failureMemory) remember(d digest, err error, generation uint64, now time.Time) {
	if definite(err) {
		m.lru.Add(d, failure{err, now.Add(m.ttl), generation})
	}
}

// purge forgets everything.
func (m *failureMemory) purge() { m.lru.Purge() }

// definite reports whether the next try would fail as well. What may pass by
// itself, an outage or a permission being granted, is tried again each time; so is
// an error that has something of both.
func definite(err error) bool {
	for _, passing := range []error{
		envelope.ErrUnreachable, envelope.ErrThrottled, envelope.ErrUnauthenticated, envelope.ErrForbidden,
	} {
		if errors.Is(err, passing) {
			return false
		}
	}
	for _, lasting := range []error{envelope.ErrCorrupt, envelope.ErrUnknownKey, envelope.ErrRevoked} {
		if errors.Is(err, lasting) {
			return true
		}
	}
	return false
}
