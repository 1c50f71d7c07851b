package envelope

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
)

// DEKSize is the length of a data-encryption key in bytes.
const DEKSize = 32

// Labels of the keys derived from one DEK. None is a prefix of another, so no
// two derivations can ever share their input. "keyfold/stream" is reserved for
// data larger than memory and derives nothing yet.
const (
	labelMessage = "keyfold/message"
	labelHeader  = "keyfold/header"
	labelRewrap  = "keyfold/rewrap"
)

// secrets are the keys of one DEK.
type secrets struct {
	message [32]byte // XAES-256-GCM key of all messages
	header  [32]byte // HMAC-SHA256 key of header tags
	rewrap  [32]byte // names the DEK in a Rewrapper's memory, never stored
}

// derive computes the keys of a DEK (RFC 5869). The DEK id is the salt: it is
// random and public, as section 3.1 of the RFC advises, and binds every derived
// key to the id in the header. dek is DEKSize bytes and stays the caller's to
// wipe.
func derive(dek []byte, dekID [dekIDSize]byte) (*secrets, error) {
	prk, err := hkdf.Extract(sha256.New, dek, dekID[:])
	if err != nil {
		return nil, invalid("derive", "%v", err)
	}
	defer clear(prk)
	s := new(secrets)
	for _, d := range []struct {
		label string
		key   *[32]byte
	}{
		{labelMessage, &s.message},
		{labelHeader, &s.header},
		{labelRewrap, &s.rewrap},
	} {
		key, err := hkdf.Expand(sha256.New, prk, d.label+string([]byte{Version1, SuiteXAES256GCM}), len(d.key))
		if err != nil {
			return nil, invalid("derive", "%v", err)
		}
		copy(d.key[:], key)
		clear(key)
	}
	return s, nil
}

// tag computes the tag of a header from all its bytes before the tag. It
// authenticates them and commits the envelope to its DEK, which GCM alone would
// not (C2SP XAES-256-GCM: "nor is it key-committing").
func (s *secrets) tag(signed []byte) (tag [headerTagSize]byte) {
	m := hmac.New(sha256.New, s.header[:])
	m.Write(signed)
	m.Sum(tag[:0])
	return tag
}

// wipe overwrites the keys.
func (s *secrets) wipe() { *s = secrets{} }
