package hsmsim

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyfold/keyfold/envelope"
)

// Ref refers to a key or to one version of it.
type Ref struct {
	Name string
	// Version is 32 lower-case hex digits, or "" for whatever is the latest at
	// the time of each wrap.
	Version string
}

// The blob of a wrap:
//
//	A256GCM       nonce 12 || ciphertext || tag 16
//	RSA-OAEP-256  ciphertext, as long as the modulus: 256, 384 or 512
//
// A256GCM binds wrapDomain as associated data, so that nothing made by Encrypt for
// another purpose passes for a wrapped DEK. RSA binds none, as in Key Vault; the
// envelope's header tag covers what matters either way.
const wrapDomain = "keyfold/hsmsim/wrap/v1"

// maxDEKSize is what the smallest key, RSA-2048, can take: 256-2*32-2.
const maxDEKSize = 190

// KEK returns a key as a KEK. It unwraps what any version of the key has wrapped,
// and wraps under ref.Version, or under the latest version if that is empty. It
// does not look whether the key exists, as a client of a remote vault would not.
//
// The KEK has the capabilities [envelope.FamilyIdentifier], [envelope.Describer],
// [envelope.VersionLister], [envelope.Pinner] and [envelope.Prober] and, if a version
// is given, [envelope.Identifier]. Wrap and Unwrap need the permissions wrapKey and
// unwrapKey, Describe and Probe need get, Versions needs list. A DEK has 1 to 190
// bytes.
func (h *HSM) KEK(ref Ref) (envelope.KEK, error) {
	if !validName(ref.Name) {
		return nil, invalid("kek", "", "use 1 to 127 of a-z, A-Z, 0-9 and -", "invalid key name %.80q", ref.Name)
	}
	k := &kek{hsm: h, name: ref.Name, family: envelope.Family(backend, h.id, ref.Name)}
	if ref.Version == "" {
		return k, nil
	}
	return k.Pin(ref.Version)
}

// kek is the versionless KEK.
type kek struct {
	hsm     *HSM
	name    string
	family  string
	version string // set in the pinned one
}

// pinned is a KEK of one version. It is a type of its own because only it can
// tell the id of its wraps beforehand.
type pinned struct{ kek }

type capabilities interface {
	envelope.KEK
	envelope.FamilyIdentifier
	envelope.Describer
	envelope.VersionLister
	envelope.Pinner
	envelope.Prober
}

var (
	_ capabilities        = (*kek)(nil)
	_ capabilities        = (*pinned)(nil)
	_ envelope.Identifier = (*pinned)(nil)
)

// KeyID returns the id that Wrap writes.
func (p *pinned) KeyID() string { return p.hsm.keyID(p.name, p.version) }

// KeyFamily returns the family of the ids of every version.
func (k *kek) KeyFamily() string { return k.family }

// Pin returns the KEK of one version.
func (k *kek) Pin(version string) (envelope.KEK, error) {
	if !validVersion(version) {
		return nil, invalid("pin", k.hsm.label(k.name, ""), "use the 32 hex digits that Versions lists", "invalid version %.80q", version)
	}
	return &pinned{kek{hsm: k.hsm, name: k.name, family: k.family, version: version}}, nil
}

// Wrap encrypts a DEK.
func (k *kek) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	if len(dek) < 1 || len(dek) > maxDEKSize {
		return envelope.WrappedKey{}, invalid(string(OpWrapKey), k.hsm.label(k.name, k.version),
			"wrap a key", "%d bytes are no DEK of 1 to %d", len(dek), maxDEKSize)
	}
	var w envelope.WrappedKey
	version, err := k.hsm.useKey(ctx, OpWrapKey, k.name, k.version, func(v *keyVersion, key *readyKey, label string) (err error) {
		w.Algorithm = v.Spec.algorithm()
		if w.Blob, err = key.encrypt(dek, domainOf(w.Algorithm)); err != nil {
			return unusable(string(OpWrapKey), label, err)
		}
		return nil
	})
	if err != nil {
		return envelope.WrappedKey{}, err
	}
	w.KeyID = k.hsm.keyID(k.name, version)
	return w, nil
}

// Unwrap decrypts a DEK that any version of this key has wrapped.
func (k *kek) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	id, err := envelope.ParseKeyID(w.KeyID)
	if err != nil {
		return nil, err
	}
	// An epoch is the ring's business, which takes it off.
	if id.Family != k.family || id.Epoch != 0 || !validVersion(id.Version) {
		return nil, fail(envelope.ErrUnknownKey, string(OpUnwrapKey), w.KeyID, errors.New("no version of "+k.hsm.label(k.name, "")),
			"configure the key that made it")
	}
	if !possibleBlob(w) {
		return nil, notAuthentic(OpUnwrapKey, k.hsm.label(k.name, id.Version))
	}
	var dek []byte
	_, err = k.hsm.useKey(ctx, OpUnwrapKey, k.name, id.Version, func(v *keyVersion, key *readyKey, label string) (err error) {
		if w.Algorithm != v.Spec.algorithm() {
			return fail(envelope.ErrCorrupt, string(OpUnwrapKey), label,
				fmt.Errorf("algorithm %.80q does not fit a key of kind %s", w.Algorithm, v.Spec), "restore the data from a backup")
		}
		if dek, err = key.decrypt(w.Blob, domainOf(w.Algorithm)); err != nil {
			return notAuthentic(OpUnwrapKey, label)
		}
		return nil
	})
	return dek, err
}

// possibleBlob tells what no key of this HSM could have made, without using one.
func possibleBlob(w envelope.WrappedKey) bool {
	n := len(w.Blob)
	switch w.Algorithm {
	case A256GCM:
		return n > gcmIVSize+gcmTagSize && n <= gcmIVSize+maxDEKSize+gcmTagSize
	case RSAOAEP256:
		return n == 256 || n == 384 || n == 512
	}
	return false
}

func domainOf(algorithm string) []byte {
	if algorithm == A256GCM {
		return []byte(wrapDomain)
	}
	return nil
}

// Describe describes the version that Wrap uses now.
func (k *kek) Describe(ctx context.Context) (envelope.KeyInfo, error) {
	v, err := k.hsm.Key(ctx, k.name, k.version)
	if err != nil {
		return envelope.KeyInfo{}, err
	}
	return k.info(v), nil
}

// Versions describes every version of the key.
func (k *kek) Versions(ctx context.Context) ([]envelope.KeyInfo, error) {
	versions, err := k.hsm.Versions(ctx, k.name)
	if err != nil {
		return nil, err
	}
	infos := make([]envelope.KeyInfo, len(versions))
	for i, v := range versions {
		infos[i] = k.info(v)
	}
	return infos, nil
}

func (k *kek) info(v KeyVersion) envelope.KeyInfo {
	return envelope.KeyInfo{
		ID: v.KeyID, Name: k.hsm.label(v.Name, v.Version), Version: v.Version, Algorithm: v.Spec.algorithm(),
		Enabled: v.Enabled, Created: v.Created, NotBefore: v.NotBefore, Expires: v.Expires,
	}
}

// Probe reads the attributes of the version that Wrap uses now and answers as Wrap
// would: nil only if it would wrap.
func (k *kek) Probe(ctx context.Context) error {
	v, err := k.hsm.Key(ctx, k.name, k.version)
	if err != nil {
		return err
	}
	return v.permits(OpWrapKey, k.hsm.label(v.Name, v.Version), k.hsm.now())
}
