package rotation

import (
	"context"
	"log/slog"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// KeyState is one configured key as far as it is known, for /statusz and for people.
// Nothing in it is secret, but Name tells where the key lives.
type KeyState struct {
	Role Role
	// ID is the id that this key writes, epoch included; "" while unknown.
	ID string
	// Epoch is the configured epoch.
	Epoch uint32
	// Writer is true for the key that wraps now.
	Writer bool
	// Health is what the ring's probe found. Probed are the key that writes, the one
	// that will, and those that are revoked; of others it is Unknown, or what was
	// found last when they were among these.
	Health Health
	// Info holds the attributes that the back end told last: full name, version,
	// enabled, dates. It is zero where the back end tells none.
	Info envelope.KeyInfo
	// AttributesErr says why attributes could not be read the last time, such as a
	// permission that is missing. It does no harm: only warnings ahead of an expiry
	// are lost.
	AttributesErr error
	// LastWrap and LastUnwrap are when this process last used the key, probes not
	// counted; zero if never.
	LastWrap, LastUnwrap time.Time
}

// LastUsed is the later of LastWrap and LastUnwrap.
func (k KeyState) LastUsed() time.Time {
	if k.LastWrap.After(k.LastUnwrap) {
		return k.LastWrap
	}
	return k.LastUnwrap
}

// Keys lists the configured keys: current, previous, then the read keys in order.
func (r *Ring) Keys() []KeyState {
	l := r.layout.Load()
	writer := l.writer(r.o.Now())
	states := make([]KeyState, 0, len(l.members))
	for _, m := range l.members {
		attrs := m.attrs.Load()
		states = append(states, KeyState{
			Role: m.role, ID: m.id(), Epoch: m.epoch, Writer: m == writer, Health: m.health.Load().Health,
			Info: attrs.info, AttributesErr: attrs.err,
			LastWrap: timeOf(m.lastWrap.Load()), LastUnwrap: timeOf(m.lastUnwrap.Load()),
		})
	}
	return states
}

func timeOf(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos)
}

// attributes are what a back end last told of a key. They are replaced whole.
type attributes struct {
	info   envelope.KeyInfo
	err    error
	warned time.Duration // the warning given last for info.Expires; zero: none
}

const (
	// attributeInterval is the time between two reads of all attributes: dates move
	// rarely, and vaults meter such reads like any other operation.
	attributeInterval = 5 * time.Minute
	day               = 24 * time.Hour
)

// expiryWarnings are how long before an expiry somebody is told, once each.
var expiryWarnings = []time.Duration{day, 7 * day, 30 * day}

// readAttributes asks every back end that can tell for the attributes of its key.
func (r *Ring) readAttributes(ctx context.Context) {
	for _, m := range r.layout.Load().members {
		d, ok := envelope.As[envelope.Describer](m.identity.Load().wrap)
		if !ok {
			continue
		}
		dctx, cancel := context.WithTimeout(ctx, r.o.ProbeTimeout)
		info, err := d.Describe(dctx)
		cancel()
		if ctx.Err() != nil {
			return
		}
		old := m.attrs.Load()
		if err != nil {
			if old.err == nil {
				r.o.Logger.Warn("key attributes cannot be read: no warning ahead of an expiry", slog.String("key", m.label()), slog.Any("error", err))
			}
			m.attrs.Store(&attributes{info: old.info, err: err, warned: old.warned})
			continue
		}
		m.described(info)
		warned := old.warned
		if !info.Expires.Equal(old.info.Expires) {
			warned = 0
		}
		m.attrs.Store(&attributes{info: info, warned: r.warnOfExpiry(m, info, warned)})
	}
}

// warnOfExpiry warns if the expiry has come within a threshold that has not been
// announced yet, and returns the last one announced.
func (r *Ring) warnOfExpiry(m *member, info envelope.KeyInfo, warned time.Duration) time.Duration {
	left := info.Expires.Sub(r.o.Now())
	if info.Expires.IsZero() || left <= 0 {
		return warned // past expiries are the probe's to tell
	}
	for _, ahead := range expiryWarnings {
		if left > ahead {
			continue
		}
		if warned != 0 && warned <= ahead {
			return warned
		}
		r.o.Logger.Warn("key expires soon", slog.String("key", info.Name), slog.String("key_id", info.ID), slog.String("role", string(m.role)),
			slog.Time("expires", info.Expires), slog.Duration("left", left.Round(time.Minute)),
			slog.String("remedy", "make a new version, roll it out as current, or move the expiry; an expired key wraps nothing new"))
		return ahead
	}
	return warned
}
