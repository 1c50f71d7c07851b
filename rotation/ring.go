package rotation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// A Ring is a KEK over KEKs. It is safe for concurrent use; a Reload takes effect
// between two calls and never inside one.
type Ring struct {
	o          Options
	layout     atomic.Pointer[layout]
	generation atomic.Uint64

	mu      sync.Mutex       // serialises reloads and changes of health
	used    map[scope]string // key names that this process has used, and what people call them
	changed chan struct{}    // closed at the next change
}

var (
	_ envelope.KEK       = (*Ring)(nil)
	_ envelope.Decorator = (*Ring)(nil)
)

// New returns a ring after validating cfg. It makes no network call; an invalid
// configuration is [envelope.ErrInvalid] with a remedy.
func New(cfg Config, o Options) (*Ring, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	l, err := newLayout(cfg)
	if err != nil {
		return nil, err
	}
	r := &Ring{o: o, used: make(map[scope]string), changed: make(chan struct{})}
	r.generation.Store(1)
	r.layout.Store(l)
	return r, nil
}

// Reload replaces the configuration. It is validated first, and on an error
// (always [envelope.ErrInvalid]) the old one stays in force. A key that both have
// keeps its health and its history.
//
// Reload refuses to drop a key name that this process has used and that cfg cannot
// read, unless cfg.Force is set. That catches the slip, not every mistake: what
// other processes use, or this one used before it started, it cannot know. A KEK
// that tells its name neither as an [envelope.Identifier] nor as an
// [envelope.FamilyIdentifier] counts as reading the old key only if it is the same
// value.
func (r *Ring) Reload(cfg Config) error {
	next, err := newLayout(cfg)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old, now := r.layout.Load(), r.o.Now()
	for _, m := range next.members {
		for _, o := range old.members {
			if m.same(o) {
				m.inherit(o, m == next.writer(now) && o == old.writer(now))
				break
			}
		}
		if ident := m.identity.Load(); ident.foreign && m.epoch != 0 {
			return epochRefused(m.role, ident.id)
		}
	}
	if err := r.guardDrop(old, next, cfg.Force); err != nil {
		return err
	}
	r.layout.Store(next)
	r.generation.Add(1)
	close(old.superseded)
	r.notify()
	r.o.Logger.Info("ring reloaded", slog.String("current", next.current.label()), slog.Int("keys", len(next.members)))
	return nil
}

// A Writer is the key that wraps at one moment.
type Writer struct {
	Role Role
	// KeyID is the id that its wraps carry, epoch included; "" while a KEK that is
	// not pinned has not wrapped yet.
	KeyID string
	// KEK wraps with the epoch set, and unwraps as the ring does. It stays this
	// very key when the ring moves on.
	KEK envelope.KEK
}

// Writer returns the key that wraps now: Previous until ActivateAt, then Current.
func (r *Ring) Writer() Writer {
	return r.writerOf(r.layout.Load().writer(r.o.Now()))
}

func (r *Ring) writerOf(m *member) Writer {
	w := Writer{Role: m.role, KeyID: m.id(), KEK: writerKEK{ring: r, member: m}}
	if w.KeyID != "" {
		w.KEK = identifiedKEK{writerKEK{ring: r, member: m}, w.KeyID}
	}
	return w
}

// Wrap encrypts dek under the writer. Under a revoked writer it refuses locally.
func (r *Ring) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	return r.wrap(ctx, r.layout.Load().writer(r.o.Now()), dek)
}

func (r *Ring) wrap(ctx context.Context, m *member, dek []byte) (envelope.WrappedKey, error) {
	if err := m.refusal("wrap"); err != nil {
		return envelope.WrappedKey{}, err
	}
	w, err := r.wrapAs(ctx, m, dek)
	if err != nil {
		return envelope.WrappedKey{}, err
	}
	m.lastWrap.Store(r.o.Now().UnixNano())
	return w, nil
}

// wrapAs wraps under m and sets the epoch, whatever m's health: a probe uses it.
func (r *Ring) wrapAs(ctx context.Context, m *member, dek []byte) (envelope.WrappedKey, error) {
	w, err := m.identity.Load().wrap.Wrap(ctx, dek)
	if err != nil {
		return envelope.WrappedKey{}, err
	}
	id, learned, err := m.wrote(w.KeyID)
	if err != nil {
		return envelope.WrappedKey{}, err
	}
	if learned {
		r.mu.Lock()
		r.notify()
		r.mu.Unlock()
	}
	w.KeyID = id
	return w, nil
}

// Underlying returns the writer's KEK, so that [envelope.As] finds what it can do.
func (r *Ring) Underlying() envelope.KEK { return r.Writer().KEK }

// Changed returns a channel that is closed at the next change of the writer, of
// its key id or of the health of a key. Take the channel first, then look, then wait:
//
//	for {
//		changed := ring.Changed()
//		use(ring.Writer(), ring.Health())
//		select {
//		case <-changed:
//		case <-ctx.Done():
//			return
//		}
//	}
//
// The change of writer at ActivateAt is announced only while [Ring.Run] runs.
func (r *Ring) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// notify wakes the waiters of Changed; r.mu is held.
func (r *Ring) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// writerKEK is one member seen as a KEK of the ring.
type writerKEK struct {
	ring   *Ring
	member *member
}

func (w writerKEK) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	return w.ring.wrap(ctx, w.member, dek)
}

func (w writerKEK) Unwrap(ctx context.Context, k envelope.WrappedKey) ([]byte, error) {
	return w.ring.Unwrap(ctx, k)
}

func (w writerKEK) Underlying() envelope.KEK { return w.member.identity.Load().wrap }

// identifiedKEK is a writerKEK whose id is known. The KEK beneath would tell it
// without the epoch.
type identifiedKEK struct {
	writerKEK
	id string
}

func (w identifiedKEK) KeyID() string { return w.id }

var (
	_ envelope.Decorator  = writerKEK{}
	_ envelope.Identifier = identifiedKEK{}
)

// refusal is the local answer of a member that is known to be revoked, or nil.
func (m *member) refusal(op string) error {
	h := m.health.Load().Health
	if h.State != Revoked {
		return nil
	}
	return revokedError(op, m.label(), h)
}

// revokedError states a revocation found earlier. The cause goes in as text: it was
// met by a probe, not by this call, and must not lend this error a second class.
func revokedError(op, key string, h Health) error {
	class := envelope.ErrRevoked
	for _, c := range []error{envelope.ErrDisabled, envelope.ErrDeleted} {
		if errors.Is(h.Err, c) {
			class = c
		}
	}
	return &envelope.Error{
		Class: class, Op: op, Key: key,
		Err:    fmt.Errorf("refused here since %s, when the ring's own probe confirmed it: %v", h.Since.UTC().Format(time.RFC3339), h.Err),
		Remedy: "restore the key or the permission; the ring notices by itself",
	}
}
