package rotation

import (
	"errors"
	"maps"

	"github.com/keyfold/keyfold/envelope"
)

// guardDrop refuses to replace old by next if this process has used a key name that
// next cannot read. By force it lets it happen and forgets the name. r.mu is held.
func (r *Ring) guardDrop(old, next *layout, force bool) error {
	used := maps.Clone(r.used)
	for _, m := range old.members {
		if m.wasUsed() {
			used[m.scope()] = m.label()
		}
		if m.scope().kek == nil && canCompare(m.kek) {
			delete(used, scope{kek: m.kek}) // from before its id was known
		}
	}
	dropped := maps.Clone(used)
	for _, m := range next.members {
		delete(dropped, m.scope())
		for _, id := range m.opaqueIDs() {
			delete(dropped, scope{name: id}) // from before it moved on to another id
		}
	}
	if !force {
		for _, label := range dropped {
			return &envelope.Error{
				Class: envelope.ErrInvalid, Op: "reload ring", Key: label,
				Err:    errors.New("this process has used the key and the new configuration cannot read it"),
				Remedy: "keep it as previous or as a read key until nothing stored needs it, or set force",
			}
		}
	}
	// What next reads stays remembered as used, even if no later call touches it.
	maps.DeleteFunc(used, func(s scope, _ string) bool { _, gone := dropped[s]; return gone })
	r.used = used
	return nil
}

// scope is what the drop guard counts in: the key name where the ids have one, the
// id where they do not, and the KEK value itself where no id is known.
type scope struct {
	name string
	kek  envelope.KEK
}

func (m *member) scope() scope {
	ident := m.identity.Load()
	switch {
	case ident.family != "":
		return scope{name: ident.family}
	case ident.id != "":
		return scope{name: ident.id}
	case canCompare(m.kek):
		return scope{kek: m.kek}
	}
	return scope{}
}

func (m *member) wasUsed() bool { return m.lastWrap.Load() != 0 || m.lastUnwrap.Load() != 0 }
