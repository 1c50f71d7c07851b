package rotation

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyfold/keyfold/envelope"
)

// Unwrap recovers a DEK that any version of a configured key wrapped, under any
// epoch. An id is only matched against what is configured, and a back end sees it
// only if the id can be its own: nothing that stands in stored data is ever dialled.
//
// It answers [envelope.ErrUnknownKey], without a network call, for any other key,
// and [envelope.ErrRevoked] for a version that the ring knows to be revoked. No
// failure that it meets changes the ring's health: stored data must not be able to.
func (r *Ring) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	l := r.layout.Load()
	if m := l.revoked(w.KeyID); m != nil {
		return nil, m.refusal("unwrap")
	}
	key, parseErr := envelope.ParseKeyID(w.KeyID)
	for _, m := range l.route(w.KeyID, key, parseErr == nil) {
		own := w
		own.KeyID = m.identity.Load().base(w.KeyID)
		dek, err := m.identity.Load().wrap.Unwrap(ctx, own)
		if errors.Is(err, envelope.ErrUnknownKey) {
			continue
		}
		if err != nil {
			return nil, err
		}
		m.opened(own.KeyID)
		m.keepCanary(own, dek)
		m.lastUnwrap.Store(r.o.Now().UnixNano())
		return dek, nil
	}
	return nil, &envelope.Error{
		Class: envelope.ErrUnknownKey, Op: "unwrap", Key: fmt.Sprintf("%.80q", w.KeyID),
		Remedy: "configure the key that wrote this as previous or as a read key",
	}
}

// route lists the members that may know id, the best first: the one that writes
// this very version, then one that is configured without a version, then others of
// the same name; last those whose ids are not known to the ring.
func (l *layout) route(id string, key envelope.KeyID, parsed bool) []*member {
	const exact, name, sibling, unknown, none = 0, 1, 2, 3, 4
	var found [none][]*member
	for _, m := range l.members {
		ident := m.identity.Load()
		rank := none
		switch {
		case m.writes(id):
			rank = exact
		case ident.family != "" && parsed && ident.family == key.Family:
			rank = sibling
			if ident.id == "" {
				rank = name
			}
		case ident.family == "":
			rank = unknown
		}
		if rank != none {
			found[rank] = append(found[rank], m)
		}
	}
	var all []*member
	for _, ms := range found {
		all = append(all, ms...)
	}
	return all
}

// revoked returns the member that knows the version named by id to be revoked.
func (l *layout) revoked(id string) *member {
	for _, m := range l.members {
		if m.health.Load().State == Revoked && m.writes(id) {
			return m
		}
	}
	return nil
}

// Generation changes whenever an answer of [Ring.Admits] may have changed from true
// to false: at every reload, revocation and recovery.
func (r *Ring) Generation() uint64 { return r.generation.Load() }

// Admits reports whether a DEK that was unwrapped under keyID may still be used: its
// key is configured and that version is not revoked. With Generation it is the gate
// of a DEK cache (package cache).
func (r *Ring) Admits(keyID string) bool {
	l := r.layout.Load()
	if l.revoked(keyID) != nil {
		return false
	}
	key, err := envelope.ParseKeyID(keyID)
	for _, m := range l.members {
		ident := m.identity.Load()
		if m.writes(keyID) || (err == nil && ident.family != "" && ident.family == key.Family) || m.remembers(keyID) {
			return true
		}
	}
	return false
}
