package envelope

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// FamilySize is the length of [KeyID.Family] in characters: 64 bits in lower-case
// hex. A family is only ever matched against the few configured ones, so a chance
// collision is what has to be unlikely, not a forged one.
const FamilySize = 16

// MaxVersionSize is the longest [KeyID.Version] in bytes.
const MaxVersionSize = 64

// A KeyID names one version of one key without revealing where the key lives:
//
//	FAMILY/VERSION[.EPOCH]
//	3f9ac81b7d02e456/0f5d3c...e1
//	3f9ac81b7d02e456/0f5d3c...e1.2
//
// FAMILY is the hash of back end, place and key name (see [Family]). VERSION
// stands in the clear, so that a version made a minute ago opens without a
// listing. EPOCH, absent when zero, is raised by an operator who goes back to an
// older version, so that no id is ever used twice (KMS v2 contract: a key_id is
// never reused).
//
// Back ends set WrappedKey.KeyID to the string form without an epoch; the ring
// of package rotation adds it. A back end of somebody else's may use any other
// string that never changes its meaning.
type KeyID struct {
	Family  string
	Version string
	Epoch   uint32
}

// Family returns the family of a key: the first 64 bits, in hex, of SHA-256 over
// the length-prefixed back end ("azurekeyvault", "hsmsim"), place (the vault, the
// token, the HSM) and key name.
func Family(backend, place, name string) string {
	h := sha256.New()
	for _, part := range []string{"keyfold key family v1", backend, place, name} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return hex.EncodeToString(h.Sum(nil))[:FamilySize]
}

// String returns the canonical form, the only one that [ParseKeyID] accepts.
func (id KeyID) String() string {
	s := id.Family + "/" + id.Version
	if id.Epoch != 0 {
		s += "." + strconv.FormatUint(uint64(id.Epoch), 10)
	}
	return s
}

// ParseKeyID is the inverse of [KeyID.String]. Whatever it accepts re-encodes to
// the same string; anything else is [ErrUnknownKey].
func ParseKeyID(s string) (KeyID, error) {
	family, rest, ok := strings.Cut(s, "/")
	if !ok || len(family) != FamilySize || strings.Trim(family, "0123456789abcdef") != "" {
		return KeyID{}, notAKeyID(s)
	}
	version, epoch, hasEpoch := strings.Cut(rest, ".")
	if !validVersion(version) {
		return KeyID{}, notAKeyID(s)
	}
	id := KeyID{Family: family, Version: version}
	if hasEpoch {
		n, err := strconv.ParseUint(epoch, 10, 32)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != epoch {
			return KeyID{}, notAKeyID(s)
		}
		id.Epoch = uint32(n)
	}
	return id, nil
}

// validVersion accepts what Key Vault (32 hex digits), PKCS#11 (CKA_ID in hex)
// and the simulated HSM use, and nothing that could be taken for a path, a
// separator or an epoch.
func validVersion(v string) bool {
	if v == "" || len(v) > MaxVersionSize {
		return false
	}
	for _, c := range []byte(v) {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

func notAKeyID(s string) error {
	return &Error{Class: ErrUnknownKey, Op: "parse key id", Err: fmt.Errorf("%.80q is not FAMILY/VERSION[.EPOCH]", s)}
}
