package rotation

import (
	"maps"
	"slices"

	"github.com/keyfold/keyfold/envelope"
)

// identity is what is known of the ids that a member writes. It grows: from the
// configuration alone, from a wrap, or from an unwrap that worked.
type identity struct {
	id      string         // base id, without epoch; "" until known
	key     envelope.KeyID // id parsed, if it is known and FAMILY/VERSION
	family  string         // "" when not known, or when the ids are not FAMILY/VERSION
	foreign bool           // the ids are known not to be FAMILY/VERSION
	wrap    envelope.KEK   // what wraps: the configured KEK, or that pinned to the adopted version
	adopted bool           // wrap is pinned to the version of the first wrap
}

// identify is the identity of what writes id, or of what tells no id if that is "".
func identify(id string, wrap envelope.KEK) identity {
	if _, ok := envelope.As[*Ring](wrap); ok {
		// A ring inside a ring keeps epochs itself and reads more keys than it writes:
		// its ids are left exactly as they are, and it is asked about any.
		return identity{id: id, foreign: true, wrap: wrap}
	}
	if id == "" {
		i := identity{wrap: wrap}
		if f, ok := envelope.As[envelope.FamilyIdentifier](wrap); ok {
			i.family = f.KeyFamily()
		}
		return i
	}
	key, err := envelope.ParseKeyID(id)
	if err != nil || key.Epoch != 0 {
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

// id is the full id that this member writes, or "".
func (m *member) id() string { return m.identity.Load().withEpoch(m.epoch) }

// writes reports whether id, of any epoch, is the version that this member writes.
func (m *member) writes(id string) bool {
	own := m.identity.Load()
	return own.id != "" && own.id == own.base(id)
}

// wrote notes the id that a wrap carried and returns the id with this member's
// epoch. learned tells that the id was new.
func (m *member) wrote(id string) (full string, learned bool, err error) {
	old := m.identity.Load()
	ident := *old
	if old.id != id {
		ident = identify(id, old.wrap)
		if old.adopted {
			// Asked for before a version was adopted and answered after it.
			return ident.withEpoch(m.epoch), false, nil
		}
		// Only a KEK that can pin itself is pinned: what a decorator's inner KEK made of
		// itself would go past the decorator.
		if p, ok := m.kek.(envelope.Pinner); ok && !ident.foreign && configuredID(m.kek) == "" {
			if pinned, err := p.Pin(ident.key.Version); err == nil {
				ident.wrap, ident.adopted = pinned, true
			}
		}
		if ident.foreign && m.epoch != 0 {
			return "", false, epochRefused(m.role, id)
		}
		if old.foreign && old.id != "" {
			m.rememberOpaque(old.id)
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
	m.rememberOpaque(id)
}

// rememberOpaque notes an id as one of this member's, which its form does not tell.
func (m *member) rememberOpaque(id string) {
	m.opaqueMu.Lock()
	defer m.opaqueMu.Unlock()
	if m.opaque == nil {
		m.opaque = make(map[string]bool)
	}
	if len(m.opaque) < maxOpaqueIDs {
		m.opaque[id] = true
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

// maxOpaqueIDs bounds how many ids of a back end whose ids are not
// FAMILY/VERSION a member remembers having written or opened. Ids beyond it still
// open; they are not admitted to a cache.
const maxOpaqueIDs = 64

func (m *member) opaqueIDs() []string {
	m.opaqueMu.Lock()
	defer m.opaqueMu.Unlock()
	return slices.Collect(maps.Keys(m.opaque))
}

// remembers reports whether m has written or opened this id, which is not
// FAMILY/VERSION.
func (m *member) remembers(id string) bool {
	m.opaqueMu.Lock()
	defer m.opaqueMu.Unlock()
	return m.opaque[id]
}
