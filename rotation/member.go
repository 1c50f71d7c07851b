package rotation

import (
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// A Role says what a key is for.
type Role string

// The roles of a ring in explicit mode.
const (
	RoleCurrent  Role = "current"
	RolePrevious Role = "previous"
	RoleRead     Role = "read"
)

// member is one configured key and what is known about it.
type member struct {
	role  Role
	kek   envelope.KEK // as configured
	epoch uint32

	identity atomic.Pointer[identity] // never nil
	health   atomic.Pointer[record]   // never nil; written under Ring.mu
	attrs    atomic.Pointer[attributes]

	lastWrap, lastUnwrap atomic.Int64 // Unix nanoseconds; zero: never

	opaqueMu sync.Mutex
	opaque   map[string]bool // foreign ids that this member has written or opened

	probing chan struct{} // holds one token while a probe runs, so that results are applied in order
	canary  atomic.Pointer[canary]
}

func newMember(role Role, k Key) (*member, error) {
	m := &member{role: role, kek: k.KEK, epoch: k.Epoch, probing: make(chan struct{}, 1)}
	m.health.Store(&record{})
	m.attrs.Store(&attributes{})
	ident := identify(configuredID(k.KEK), k.KEK)
	if ident.foreign && k.Epoch != 0 {
		return nil, epochRefused(role, ident.id)
	}
	m.identity.Store(&ident)
	return m, nil
}

// same reports whether two members are the same version of the same key, epochs
// apart.
func (m *member) same(other *member) bool {
	a, b := m.identity.Load(), other.identity.Load()
	if a.id != "" && b.id != "" {
		return a.id == b.id
	}
	return sameKEK(m.kek, other.kek)
}

// sameKEK compares two KEKs by identity where their type allows it.
func sameKEK(a, b envelope.KEK) bool { return canCompare(a) && canCompare(b) && a == b }

// canCompare reports whether == may be used on k: a KEK may be a struct with slices
// in it.
func canCompare(k envelope.KEK) bool { return reflect.ValueOf(k).Comparable() }

// inherit takes over what was known about the same key in the configuration
// before. The records are copied, not shared: a probe of the old configuration
// that ends late must not speak for the new one. A refusal that waits for its
// confirmation goes on waiting if m is probed on, or reloads would put a revocation
// off; otherwise it would be confirmed by an answer of another day.
func (m *member) inherit(old *member, probedOn bool) {
	if sameKEK(m.kek, old.kek) {
		m.identity.Store(old.identity.Load())
	}
	rec := *old.health.Load()
	if !probedOn {
		rec.refused, rec.forbidden = time.Time{}, time.Time{}
	}
	m.health.Store(&rec)
	m.attrs.Store(old.attrs.Load())
	m.canary.Store(old.canary.Load())
	m.lastWrap.Store(old.lastWrap.Load())
	m.lastUnwrap.Store(old.lastUnwrap.Load())
	for _, id := range old.opaqueIDs() {
		m.rememberOpaque(id)
	}
}

// label names the member in messages to people.
func (m *member) label() string {
	if info := m.attrs.Load().info; info.Name != "" {
		return info.Name
	}
	ident := m.identity.Load()
	switch {
	case ident.id != "":
		return ident.withEpoch(m.epoch)
	case ident.family != "":
		return ident.family
	}
	return fmt.Sprintf("(%s, id not yet known)", m.role)
}

func epochRefused(role Role, id string) error {
	return &envelope.Error{
		Class: envelope.ErrInvalid, Op: "validate ring", Key: id,
		Err:    fmt.Errorf("the %s key has an epoch, but its ids are not FAMILY/VERSION", role),
		Remedy: "remove the epoch; a back end with ids of its own makes new ids itself",
	}
}
