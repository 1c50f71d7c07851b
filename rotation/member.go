package rotation

import (
	"fmt"
	"reflect"
	"strings"
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

// maxOpaqueIDs bounds how many ids of a back end whose ids are not
// FAMILY/VERSION a member remembers having opened. Ids beyond it still open; they
// are not admitted to a cache.
const maxOpaqueIDs = 64

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
	opaque   map[string]bool // foreign ids that this member has opened

	probing chan struct{} // holds one token while a probe runs, so that results are applied in order
	canary  atomic.Pointer[canary]
}

// identity is what is known of the ids that a member writes. It grows: from the
// configuration alone, from a wrap, or from an unwrap that worked.
type identity struct {
	id      string         // base id, without epoch; "" until known
	key     envelope.KeyID // id parsed, if family != ""
	family  string         // "" when not known, or when the ids are not FAMILY/VERSION
	foreign bool           // the ids are known not to be FAMILY/VERSION
	wrap    envelope.KEK   // what wraps: the configured KEK, or that pinned to the adopted version
}

func newMember(role Role, k Key) (*member, error) {
	m := &member{role: role, kek: k.KEK, epoch: k.Epoch, probing: make(chan struct{}, 1)}
	m.health.Store(&record{})
	m.attrs.Store(&attributes{})
	ident := identity{wrap: k.KEK}
	if id := configuredID(k.KEK); id != "" {
		ident = identify(id, k.KEK)
	} else {
		ident.family = configuredFamily(k.KEK)
	}
	if ident.foreign && k.Epoch != 0 {
		return nil, epochRefused(role, ident.id)
	}
	m.identity.Store(&ident)
	return m, nil
}

func identify(id string, wrap envelope.KEK) identity {
	key, err := envelope.ParseKeyID(id)
	if err != nil || key.Epoch != 0 {
		// An epoch in a back end's own id means that it keeps epochs itself (a ring
		// inside a ring); its ids are left exactly as they are.
		return identity{id: id, foreign: true, wrap: wrap}
	}
	return identity{id: id, key: key, family: key.Family, wrap: wrap}
}

// configuredID is the id that kek tells without a network call, or "".
func configuredID(kek envelope.KEK) string {
	if i, ok := envelope.As[envelope.Identifier](kek); ok {
		return i.KeyID()
	}
	return ""
}

// configuredFamily finds the family of a KEK that is not pinned to a version. Its
// version is unknown, but its name is not: the id of any pinned version tells it,
// and pinning makes no network call.
func configuredFamily(kek envelope.KEK) string {
	p, ok := envelope.As[envelope.Pinner](kek)
	if !ok {
		return ""
	}
	pinned, err := p.Pin(strings.Repeat("0", 32))
	if err != nil {
		return ""
	}
	key, err := envelope.ParseKeyID(configuredID(pinned))
	if err != nil {
		return ""
	}
	return key.Family
}

// wrote notes the id that a wrap carried and returns the id with this member's
// epoch. learned tells that the id was new.
func (m *member) wrote(id string) (full string, learned bool, err error) {
	old := m.identity.Load()
	ident := *old
	if old.id != id {
		ident = identify(id, old.wrap)
		if p, ok := envelope.As[envelope.Pinner](m.kek); ok && !ident.foreign && configuredID(m.kek) == "" {
			if pinned, err := p.Pin(ident.key.Version); err == nil {
				ident.wrap = pinned
			}
		}
		if ident.foreign && m.epoch != 0 {
			return "", false, epochRefused(m.role, id)
		}
		m.identity.CompareAndSwap(old, &ident)
	}
	return ident.withEpoch(m.epoch), old.id != id, nil
}

// opened notes that this member unwrapped id.
func (m *member) opened(id string) {
	ident := m.identity.Load()
	if ident.family != "" {
		return
	}
	if key, err := envelope.ParseKeyID(id); err == nil && !ident.foreign {
		grown := *ident
		grown.family = key.Family
		m.identity.CompareAndSwap(ident, &grown)
		return
	}
	m.opaqueMu.Lock()
	defer m.opaqueMu.Unlock()
	if m.opaque == nil {
		m.opaque = make(map[string]bool)
	}
	if len(m.opaque) < maxOpaqueIDs {
		m.opaque[id] = true
	}
}

func (m *member) hasOpened(id string) bool {
	m.opaqueMu.Lock()
	defer m.opaqueMu.Unlock()
	return m.opaque[id]
}

// writes reports whether id, of any epoch, is the version that this member writes.
func (m *member) writes(id string) bool {
	own := m.identity.Load()
	return own.id != "" && own.id == own.base(id)
}

// id is the full id that this member writes, or "".
func (m *member) id() string { return m.identity.Load().withEpoch(m.epoch) }

// base strips the epoch from an id of this member.
func (i *identity) base(id string) string {
	if i.foreign {
		return id
	}
	key, err := envelope.ParseKeyID(id)
	if err != nil {
		return id
	}
	key.Epoch = 0
	return key.String()
}

func (i *identity) withEpoch(epoch uint32) string {
	if epoch == 0 || i.family == "" || i.id == "" {
		return i.id
	}
	key := i.key
	key.Epoch = epoch
	return key.String()
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
// that ends late must not speak for the new one.
func (m *member) inherit(old *member) {
	if sameKEK(m.kek, old.kek) {
		m.identity.Store(old.identity.Load())
	}
	rec := *old.health.Load()
	rec.refused, rec.forbidden = time.Time{}, time.Time{}
	m.health.Store(&rec)
	m.attrs.Store(old.attrs.Load())
	m.canary.Store(old.canary.Load())
	m.lastWrap.Store(old.lastWrap.Load())
	m.lastUnwrap.Store(old.lastUnwrap.Load())
	old.opaqueMu.Lock()
	defer old.opaqueMu.Unlock()
	for id := range old.opaque {
		m.opened(id)
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

// described notes what a back end told of the version that Wrap uses now. For a KEK
// that is not pinned that version is not what its next wrap need use: it tells the
// name alone.
func (m *member) described(info envelope.KeyInfo) {
	ident := m.identity.Load()
	key, err := envelope.ParseKeyID(info.ID)
	if err != nil || ident.foreign || ident.family != "" {
		return
	}
	grown := *ident
	grown.family = key.Family
	m.identity.CompareAndSwap(ident, &grown)
}
