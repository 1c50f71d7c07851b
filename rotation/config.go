package rotation

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// A Key is one configured KEK.
type Key struct {
	// KEK is the key in its back end, best pinned to one version. A KEK that is not
	// pinned adopts the version that its first wrap names. If it is itself an
	// [envelope.Pinner] it stays with that version until it is configured anew;
	// otherwise, and behind a decorator, its id changes when the back end moves on.
	KEK envelope.KEK
	// Epoch becomes part of the key ids that this key writes. Raise it when going
	// back to a version that was current before, so that no id is used twice (KMS v2
	// contract: a key_id is never reused). It needs a KEK whose ids are
	// FAMILY/VERSION, see [envelope.KeyID].
	Epoch uint32
}

// Config says which key does what. It is passed by value and never kept by
// reference.
type Config struct {
	// Current wraps (from ActivateAt on) and unwraps. Required.
	Current Key
	// Previous unwraps, and wraps until ActivateAt. Optional.
	Previous *Key
	// Read are any number of keys that only unwrap: older keys still in use, and a
	// future key on its way to every node.
	Read []Key
	// ActivateAt is when Current takes over from Previous, the same instant on every
	// node. Zero means at once; any other value needs Previous.
	ActivateAt time.Time
	// Force lets Reload drop a key although this process has used it.
	Force bool
}

// Options tune a [Ring]. The zero value is what production wants.
type Options struct {
	// ProbeInterval is the time between two checks of the writer; 15 s if zero. A
	// longer one lengthens [Ring.RevocationBound] by as much.
	ProbeInterval time.Duration
	// ProbeTimeout bounds one check, wrap and unwrap together; 5 s if zero.
	ProbeTimeout time.Duration
	// Logger receives changes of health and coming expiries; nil discards them.
	Logger *slog.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

const (
	defaultProbeInterval = 15 * time.Second
	defaultProbeTimeout  = 5 * time.Second
)

func (o Options) withDefaults() (Options, error) {
	if o.ProbeInterval < 0 || o.ProbeTimeout < 0 {
		return o, invalid("new ring", "ProbeInterval and ProbeTimeout must not be negative", "leave them zero for the defaults")
	}
	if o.ProbeInterval == 0 {
		o.ProbeInterval = defaultProbeInterval
	}
	if o.ProbeTimeout == 0 {
		o.ProbeTimeout = defaultProbeTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o, nil
}

// layout is one validated configuration. It never changes, but for current taking
// over once; a reload makes another.
type layout struct {
	current, previous *member // previous may be nil
	members           []*member
	activateAt        time.Time
	activated         atomic.Bool   // current has taken over
	superseded        chan struct{} // closed when a reload has replaced this layout
}

// writer returns the member that wraps at now. Once that was current it stays so,
// even if the clock is set back: the id of previous would return after another had
// taken its place (KMS v2 contract: a key_id does not flip back).
func (l *layout) writer(now time.Time) *member {
	if l.activated.Load() {
		return l.current
	}
	if now.Before(l.activateAt) {
		return l.previous
	}
	l.activated.Store(true)
	return l.current
}

func (l *layout) has(m *member) bool {
	for _, other := range l.members {
		if other == m {
			return true
		}
	}
	return false
}

// newLayout validates cfg. It asks the KEKs for their ids but makes no network
// call, so that a configuration can be judged while a vault is away.
func newLayout(cfg Config) (*layout, error) {
	const op = "validate ring"
	l := &layout{activateAt: cfg.ActivateAt, superseded: make(chan struct{})}
	add := func(role Role, where string, k Key) (*member, error) {
		if isNil(k.KEK) {
			return nil, invalid(op, where+" has no key", "configure a key for "+where)
		}
		m, err := newMember(role, k)
		if err != nil {
			return nil, err
		}
		l.members = append(l.members, m)
		return m, nil
	}
	var err error
	if l.current, err = add(RoleCurrent, "current", cfg.Current); err != nil {
		return nil, err
	}
	if cfg.Previous != nil {
		if l.previous, err = add(RolePrevious, "previous", *cfg.Previous); err != nil {
			return nil, err
		}
		if l.current.same(l.previous) && l.current.epoch == l.previous.epoch {
			return nil, invalid(op, "current and previous are the same key "+l.current.label(),
				"remove previous, name another version, or raise the epoch of current")
		}
	} else if !cfg.ActivateAt.IsZero() {
		return nil, invalid(op, "activateAt is set but there is no previous key to wrap until then",
			"configure previous, or remove activateAt")
	}
	reads := len(l.members)
	for i, k := range cfg.Read {
		m, err := add(RoleRead, fmt.Sprintf("read[%d]", i), k)
		if err != nil {
			return nil, err
		}
		for _, other := range l.members[reads : len(l.members)-1] {
			if m.same(other) {
				return nil, invalid(op, fmt.Sprintf("read[%d] repeats the key %s", i, m.label()), "remove one of the two")
			}
		}
	}
	return l, nil
}

func invalid(op, what, remedy string) error {
	return &envelope.Error{Class: envelope.ErrInvalid, Op: op, Err: errors.New(what), Remedy: remedy}
}

// isNil also sees a nil pointer inside the interface: what a configuration loader
// that forgot a key hands over.
func isNil(k envelope.KEK) bool {
	if k == nil {
		return true
	}
	v := reflect.ValueOf(k)
	return v.Kind() == reflect.Pointer && v.IsNil()
}
