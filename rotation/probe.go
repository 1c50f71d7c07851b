package rotation

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"log/slog"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// canary is a wrap that is known to open: what is unwrapped to see whether a key
// that no longer wraps still reads. Of its DEK only the digest is kept.
type canary struct {
	wrapped envelope.WrappedKey
	digest  [sha256.Size]byte
}

// keepCanary makes a wrap that m has just opened its canary if there is none yet. So
// has a ring one that was started under an expired key, where no probe can make one.
// The wrap comes from stored data, but since it opened, that it opens no more can
// only be the key's doing.
func (m *member) keepCanary(w envelope.WrappedKey, dek []byte) {
	if m.canary.Load() != nil || !m.writes(w.KeyID) {
		return
	}
	w.Blob = bytes.Clone(w.Blob)
	m.canary.CompareAndSwap(nil, &canary{wrapped: w, digest: sha256.Sum256(dek)})
}

// Health returns what is known of the writer, from memory.
func (r *Ring) Health() Health {
	return r.layout.Load().writer(r.o.Now()).health.Load().Health
}

// Probe checks the writer now, within Options.ProbeTimeout: it wraps a random
// canary and unwraps it again. A key that is past its expiry is asked instead to
// unwrap what it is known to have opened before. Probe returns the writer's health after that;
// when ctx ends first, the health as it was.
//
// One probe runs at a time for each key.
func (r *Ring) Probe(ctx context.Context) Health {
	r.probe(ctx, r.layout.Load().writer(r.o.Now()))
	return r.Health()
}

func (r *Ring) probe(ctx context.Context, m *member) {
	select {
	case m.probing <- struct{}{}:
		defer func() { <-m.probing }()
	case <-ctx.Done():
		return
	}
	pctx, cancel := context.WithTimeout(ctx, r.o.ProbeTimeout)
	defer cancel()
	err := r.tryKey(pctx, m)
	if ctx.Err() != nil && err != nil {
		return // the caller gave up: that is no answer
	}
	r.apply(m, classified(err))
}

// classified makes sure that a failure is of a class: what a back end did not
// classify, the end of its context above all, counts as unreachable.
func classified(err error) error {
	if err == nil {
		return nil
	}
	for _, class := range []error{
		envelope.ErrUnreachable, envelope.ErrThrottled, envelope.ErrUnauthenticated, envelope.ErrForbidden,
		envelope.ErrExpired, envelope.ErrNotYetValid, envelope.ErrRevoked, envelope.ErrCorrupt,
		envelope.ErrUnknownKey, envelope.ErrInvalid,
	} {
		if errors.Is(err, class) {
			return err
		}
	}
	return &envelope.Error{Class: envelope.ErrUnreachable, Op: "probe", Err: err}
}

func (r *Ring) tryKey(ctx context.Context, m *member) error {
	var dek [32]byte
	rand.Read(dek[:]) // never fails, see crypto/rand
	w, err := r.wrapAs(ctx, m, dek[:])
	if errors.Is(err, envelope.ErrExpired) || errors.Is(err, envelope.ErrNotYetValid) {
		if old := m.canary.Load(); old != nil {
			if err := m.tryCanary(ctx, old); err != nil {
				return err
			}
		}
		return err
	}
	if err != nil {
		return err
	}
	c := &canary{wrapped: w, digest: sha256.Sum256(dek[:])}
	c.wrapped.KeyID = m.identity.Load().base(w.KeyID)
	if err := m.tryCanary(ctx, c); err != nil {
		return err
	}
	m.canary.Store(c)
	return nil
}

func (m *member) tryCanary(ctx context.Context, c *canary) error {
	dek, err := m.identity.Load().wrap.Unwrap(ctx, c.wrapped)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(dek)
	clear(dek)
	if !hmac.Equal(digest[:], c.digest[:]) {
		return &envelope.Error{
			Class: envelope.ErrCorrupt, Op: "probe", Key: m.label(),
			Err: errors.New("the key store unwrapped other bytes than it had wrapped"),
		}
	}
	return nil
}

// apply records the outcome of a probe of m, unless a reload has replaced m since.
func (r *Ring) apply(m *member, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.layout.Load().has(m) {
		return
	}
	old := *m.health.Load()
	rec := old.next(err, r.o.Now())
	m.health.Store(&rec)
	if rec.State == old.State {
		return
	}
	if rec.State == Revoked || old.State == Revoked {
		r.generation.Add(1) // after the record, so that whoever sees the number sees the record
	}
	r.notify()
	r.logHealth(m, old.Health, rec.Health)
}

// logHealth logs one change of state, loudly where somebody has to act.
func (r *Ring) logHealth(m *member, old, now Health) {
	attrs := []any{
		slog.String("key", m.label()), slog.String("key_id", m.id()), slog.String("role", string(m.role)),
		slog.String("from", old.State.String()), slog.String("to", now.State.String()),
	}
	if now.Err != nil {
		attrs = append(attrs, slog.Any("error", now.Err))
	}
	switch now.State {
	case Healthy:
		r.o.Logger.Info("key works", attrs...)
	case Expired:
		r.o.Logger.Error("KEY EXPIRED OR NOT YET VALID: it wraps nothing new; data under it still opens, and writing goes on only under data keys wrapped before",
			append(attrs, slog.String("remedy", "rotate to a new version of the key, or change its dates"))...)
	case Revoked:
		r.o.Logger.Error("KEY REVOKED: nothing is sealed or opened under it from now on",
			append(attrs, slog.String("remedy", "if this was not intended, enable or recover the key, or give the permission back; it is noticed within the probe interval"))...)
	default:
		r.o.Logger.Warn("key cannot be used now", append(attrs, slog.Time("last_ok", now.LastOK))...)
	}
}

// RevocationBound is the longest time from a key being taken away to this ring
// refusing it, if the key store answers: 58 s by default. A key that is disabled or
// deleted is refused about half a minute sooner than one that is forbidden.
func (r *Ring) RevocationBound() time.Duration {
	return r.o.ProbeInterval + forbiddenAfter + confirmAfter + 2*r.o.ProbeTimeout
}
