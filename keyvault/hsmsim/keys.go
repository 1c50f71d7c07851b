package hsmsim

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

const (
	backend     = "hsmsim" // in key families
	versionSize = 16       // bytes, 32 hex digits
	maxNameSize = 127
)

// KeyVersion describes one version of a key.
type KeyVersion struct {
	Name, Version string
	Spec          KeySpec
	// KeyID is the id that wraps under this version carry.
	KeyID string
	Attributes
}

// Attributes decide whether a version may be used. NotBefore and Expires are zero
// where none is set.
type Attributes struct {
	Enabled   bool      `json:"enabled"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	Expires   time.Time `json:"expires,omitzero"`
	Created   time.Time `json:"created"`
	Updated   time.Time `json:"updated"`
}

// Key describes a key. Deleted is zero for a key in use; otherwise it waits to be
// recovered or purged.
type Key struct {
	Name    string
	Latest  KeyVersion
	Deleted time.Time
}

// CreateKey makes a key with a first version, enabled and without dates. The name
// is 1 to 127 of a-z, A-Z, 0-9 and "-". Making an RSA key takes up to some seconds
// and is not interrupted by ctx. [ErrExists] reports a name in use, by a deleted
// key too.
func (h *HSM) CreateKey(ctx context.Context, name string, spec KeySpec) (KeyVersion, error) {
	r := h.request(OpCreate, name, "")
	if !spec.valid() {
		return KeyVersion{}, invalid(string(r.op), r.label, "use AES-256, RSA-2048, RSA-3072 or RSA-4096", "unknown kind of key %.80q", spec)
	}
	return h.addVersion(ctx, r, func(s *state) (KeySpec, error) {
		k := s.Keys[name]
		switch {
		case k == nil:
			return spec, nil
		case k.Deleted.IsZero():
			return "", fail(envelope.ErrInvalid, string(r.op), r.label, ErrExists, "use it, or rotate it for a new version")
		default:
			return "", fail(envelope.ErrInvalid, string(r.op), r.label, ErrExists, "recover the deleted key, or purge it")
		}
	})
}

// Rotate adds a version of the same kind, enabled and without dates, which is the
// latest from then on. Older versions stay as they are.
func (h *HSM) Rotate(ctx context.Context, name string) (KeyVersion, error) {
	r := h.request(OpRotate, name, "")
	return h.addVersion(ctx, r, func(s *state) (KeySpec, error) {
		k, err := s.live(r)
		if err != nil {
			return "", err
		}
		return k.latest().Spec, nil
	})
}

// addVersion generates a key before it takes the folder's lock, since others would
// wait for seconds; so the check is done twice.
func (h *HSM) addVersion(ctx context.Context, r *request, check func(*state) (KeySpec, error)) (added KeyVersion, err error) {
	err = h.perform(ctx, r, func(s *state) error {
		op := string(r.op)
		spec, err := check(s)
		if err != nil {
			return err
		}
		material, err := spec.generate()
		if err != nil {
			return fail(envelope.ErrUnreachable, op, r.label, err, "check the system's random source")
		}
		if ctx.Err() != nil {
			return interrupted(op, r.label, ctx)
		}
		return h.mutate(ctx, op, r.label, func(s *state) error {
			if again, err := check(s); err != nil {
				return err
			} else if again != spec {
				return invalid(op, r.label, "try again", "another process changed the kind of the key meanwhile")
			}
			now := h.timestamp()
			v := &keyVersion{
				Version: randomHex(versionSize), Spec: spec,
				Attributes: Attributes{Enabled: true, Created: now, Updated: now},
				Material:   material, ready: new(readyKey),
			}
			k := s.Keys[r.name]
			if k == nil {
				k = new(key)
				s.Keys[r.name] = k
			}
			k.Versions = append(k.Versions, v)
			r.version = v.Version
			added = h.describe(r.name, v)
			return nil
		})
	})
	if err != nil {
		return KeyVersion{}, err
	}
	return added, nil
}

// SetEnabled enables or disables a version; "" is the latest.
func (h *HSM) SetEnabled(ctx context.Context, name, version string, enabled bool) error {
	return h.update(ctx, name, version, func(v *keyVersion) { v.Enabled = enabled })
}

// SetExpiry sets the time from which a version wraps nothing; zero removes it.
func (h *HSM) SetExpiry(ctx context.Context, name, version string, at time.Time) error {
	return h.update(ctx, name, version, func(v *keyVersion) { v.Expires = at.UTC() })
}

// SetNotBefore sets the time before which a version wraps nothing; zero removes it.
func (h *HSM) SetNotBefore(ctx context.Context, name, version string, at time.Time) error {
	return h.update(ctx, name, version, func(v *keyVersion) { v.NotBefore = at.UTC() })
}

func (h *HSM) update(ctx context.Context, name, version string, change func(*keyVersion)) error {
	r := h.request(OpUpdate, name, version)
	return h.perform(ctx, r, func(*state) error {
		return h.mutate(ctx, string(r.op), r.label, func(s *state) error {
			v, err := s.find(r)
			if err != nil {
				return err
			}
			change(v)
			v.Updated = h.timestamp()
			r.version = v.Version
			return nil
		})
	})
}

// Delete takes a key away with all its versions. It can be recovered.
func (h *HSM) Delete(ctx context.Context, name string) error {
	return h.change(ctx, OpDelete, name, func(s *state, r *request) error {
		k, err := s.live(r)
		if err != nil {
			return err
		}
		k.Deleted = h.timestamp()
		return nil
	})
}

// Recover brings a deleted key back as it was.
func (h *HSM) Recover(ctx context.Context, name string) error {
	return h.change(ctx, OpRecover, name, func(s *state, r *request) error {
		if err := deleted(s, r); err != nil {
			return err
		}
		s.Keys[name].Deleted = time.Time{}
		return nil
	})
}

// Purge destroys a deleted key. Whatever only it can unwrap is lost.
func (h *HSM) Purge(ctx context.Context, name string) error {
	return h.change(ctx, OpPurge, name, func(s *state, r *request) error {
		if err := deleted(s, r); err != nil {
			return err
		}
		delete(s.Keys, name)
		return nil
	})
}

func deleted(s *state, r *request) error {
	k := s.Keys[r.name]
	switch {
	case k == nil:
		return fail(envelope.ErrDeleted, string(r.op), r.label, errors.New("the HSM has no such deleted key"), "check the name")
	case k.Deleted.IsZero():
		return invalid(string(r.op), r.label, "delete it first", "the key is not deleted")
	}
	return nil
}

func (h *HSM) change(ctx context.Context, op Operation, name string, f func(*state, *request) error) error {
	r := h.request(op, name, "")
	return h.perform(ctx, r, func(*state) error {
		return h.mutate(ctx, string(op), r.label, func(s *state) error { return f(s, r) })
	})
}

// Key describes a version of a key; "" is the latest. It works for a disabled one.
func (h *HSM) Key(ctx context.Context, name, version string) (kv KeyVersion, err error) {
	r := h.request(OpGet, name, version)
	err = h.perform(ctx, r, func(s *state) error {
		v, err := s.find(r)
		if err != nil {
			return err
		}
		r.version = v.Version
		kv = h.describe(name, v)
		return nil
	})
	return kv, err
}

// Versions describes every version of a key, oldest first.
func (h *HSM) Versions(ctx context.Context, name string) (list []KeyVersion, err error) {
	r := h.request(OpList, name, "")
	err = h.perform(ctx, r, func(s *state) error {
		k, err := s.live(r)
		if err != nil {
			return err
		}
		for _, v := range k.Versions {
			list = append(list, h.describe(name, v))
		}
		return nil
	})
	return list, err
}

// Keys describes every key, the deleted ones too, by name.
func (h *HSM) Keys(ctx context.Context) (list []Key, err error) {
	err = h.perform(ctx, &request{op: OpList}, func(s *state) error {
		for name, k := range s.Keys {
			list = append(list, Key{Name: name, Latest: h.describe(name, k.latest()), Deleted: k.Deleted})
		}
		return nil
	})
	slices.SortFunc(list, func(a, b Key) int { return strings.Compare(a.Name, b.Name) })
	return list, err
}

// permits applies the attributes to an operation, as Key Vault does: dates stop
// what makes new ciphertext and nothing else.
func (a Attributes) permits(op Operation, label string, now time.Time) error {
	makes := op == OpEncrypt || op == OpWrapKey
	switch {
	case !a.Enabled:
		return fail(envelope.ErrDisabled, string(op), label, nil, "enable the key version")
	case makes && !a.Expires.IsZero() && !now.Before(a.Expires):
		return fail(envelope.ErrExpired, string(op), label, errors.New("since "+a.Expires.Format(time.RFC3339)),
			"rotate the key, or extend its expiry")
	case makes && now.Before(a.NotBefore):
		return fail(envelope.ErrNotYetValid, string(op), label, errors.New("until "+a.NotBefore.Format(time.RFC3339)),
			"wait, or use an older version")
	}
	return nil
}

func (h *HSM) describe(name string, v *keyVersion) KeyVersion {
	return KeyVersion{
		Name: name, Version: v.Version, Spec: v.Spec, KeyID: h.keyID(name, v.Version), Attributes: v.Attributes,
	}
}

func (h *HSM) keyID(name, version string) string {
	return envelope.KeyID{Family: envelope.Family(backend, h.id, name), Version: version}.String()
}

// timestamp is the time as the state file keeps it, without a monotonic reading.
func (h *HSM) timestamp() time.Time { return h.now().UTC().Round(0) }

// label names a key to people: in errors and in KeyInfo.Name.
func (h *HSM) label(name, version string) string {
	label := backend + "://" + h.dir + "/" + name
	if version != "" {
		label += "/" + version
	}
	return label
}

func validName(name string) bool {
	if name == "" || len(name) > maxNameSize {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-':
		default:
			return false
		}
	}
	return true
}

func validVersion(v string) bool {
	return len(v) == 2*versionSize && strings.Trim(v, "0123456789abcdef") == ""
}
