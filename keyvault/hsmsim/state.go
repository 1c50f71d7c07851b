package hsmsim

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// state is the content of the state file. A published state is never changed;
// a writer decodes its own.
type state struct {
	ID         string          `json:"id"`         // random, the place in every key id's family
	Generation uint64          `json:"generation"` // counts writes, for people who debug
	Keys       map[string]*key `json:"keys"`
}

type key struct {
	Deleted  time.Time     `json:"deleted,omitzero"`
	Versions []*keyVersion `json:"versions"` // oldest first, never empty
}

// keyVersion holds the spec although all versions of a key made here share it:
// Key Vault lets a new version be of another kind.
type keyVersion struct {
	Version string  `json:"version"`
	Spec    KeySpec `json:"spec"`
	Attributes
	Material []byte `json:"material"` // AES: 32 bytes; RSA: PKCS#8

	ready *readyKey // parsed on first use, shared by all states that hold this version
}

func newState() *state {
	return &state{ID: randomHex(16), Keys: map[string]*key{}}
}

// decodeState parses the plaintext of a state file. Versions known from prev keep
// their parsed keys, because parsing an RSA key costs more than using it.
func decodeState(plaintext []byte, prev *state) (*state, error) {
	dec := json.NewDecoder(bytes.NewReader(plaintext))
	// An unknown field was written by a later program; rewriting would lose it.
	dec.DisallowUnknownFields()
	var s state
	if err := dec.Decode(&s); err != nil || s.ID == "" || s.Keys == nil {
		return nil, corruptState("its content is not what this version of the program writes")
	}
	for name, k := range s.Keys {
		if k == nil || len(k.Versions) == 0 {
			return nil, corruptState("key %q has no version", name)
		}
		for i, v := range k.Versions {
			if v == nil {
				return nil, corruptState("key %q has no version %d", name, i)
			}
			v.ready = prev.readyKey(name, v)
		}
	}
	return &s, nil
}

func (s *state) encode() ([]byte, error) { return json.Marshal(s) }

// clone returns a copy for a writer to change. Material never changes and is shared.
func (s *state) clone() *state {
	c := &state{ID: s.ID, Generation: s.Generation, Keys: make(map[string]*key, len(s.Keys))}
	for name, k := range s.Keys {
		kc := &key{Deleted: k.Deleted, Versions: make([]*keyVersion, len(k.Versions))}
		for i, v := range k.Versions {
			vc := *v
			kc.Versions[i] = &vc
		}
		c.Keys[name] = kc
	}
	return c
}

func (s *state) readyKey(name string, v *keyVersion) *readyKey {
	if s != nil && s.Keys[name] != nil {
		for _, old := range s.Keys[name].Versions {
			if old.Version == v.Version && bytes.Equal(old.Material, v.Material) {
				return old.ready
			}
		}
	}
	return new(readyKey)
}

// find returns the version that r asks for, of a key that is not deleted.
func (s *state) find(r *request) (*keyVersion, error) {
	k, err := s.live(r)
	if err != nil {
		return nil, err
	}
	if r.version == "" {
		return k.latest(), nil
	}
	for _, v := range k.Versions {
		if v.Version == r.version {
			return v, nil
		}
	}
	return nil, fail(envelope.ErrDeleted, string(r.op), r.label, errors.New("the key has no such version"), "check the version")
}

// live returns r's key unless it is deleted.
func (s *state) live(r *request) (*key, error) {
	k := s.Keys[r.name]
	switch {
	case k == nil:
		return nil, fail(envelope.ErrDeleted, string(r.op), r.label, errors.New("the HSM has no such key"), "check the name, or create the key")
	case !k.Deleted.IsZero():
		return nil, fail(envelope.ErrDeleted, string(r.op), r.label, errors.New("the key was deleted and not purged"), "recover the key")
	}
	return k, nil
}

func (k *key) latest() *keyVersion { return k.Versions[len(k.Versions)-1] }

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b)
	return hex.EncodeToString(b)
}
