package envelope

import (
	"context"
	"crypto/cipher"
)

// Seams for tests: what no caller may choose (nonces, DEKs, the hard limit) and
// vectors fix.

// NewMessageAEAD is the cipher of messages under one selector.
func NewMessageAEAD(key *[32]byte, sel [12]byte) (cipher.AEAD, error) {
	return newMessageAEAD(key, sel)
}

// XAESSubkey is the sub-key of XAES-256-GCM.
func XAESSubkey(key *[32]byte, sel [12]byte) ([32]byte, error) { return xaesSubkey(key, sel) }

// WrapHeader makes the header of a DEK that the test has chosen.
func WrapHeader(ctx context.Context, dek []byte, dekID [16]byte, targets ...Wrapper) ([]byte, error) {
	s, err := derive(dek, dekID)
	if err != nil {
		return nil, err
	}
	return wrapHeader(ctx, dek, dekID, s, targets...)
}

// MessageKey is the key that messages under a DEK are encrypted with.
func MessageKey(dek []byte, dekID [16]byte) ([32]byte, error) {
	s, err := derive(dek, dekID)
	if err != nil {
		return [32]byte{}, err
	}
	return s.message, nil
}

// Secret is the key that k opens messages with.
func (k *OpenKey) Secret() [32]byte { return k.key }

// SetHardLimit lowers the number of messages after which s stops.
func (s *Sealer) SetHardLimit(n uint64) { s.hardLimit = n }

// CheckPlaintextSize is the check that no test has the memory to reach.
func CheckPlaintextSize(n uint64) error { return checkPlaintextSize(n) }

const (
	HardMaxMessages = hardMaxMessages
	SoftMaxMessages = softMaxMessages
	SoftMaxBytes    = softMaxBytes
	RewrapMemory    = rewrapMemory
)
