package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
)

// Sizes of XAES-256-GCM (https://c2sp.org/XAES-256-GCM). Its 24-byte nonce is a
// selector, which picks a sub-key, and the nonce of plain AES-256-GCM under that
// sub-key.
const (
	selectorSize = 12
	nonceSize    = 24
	gcmTagSize   = 16

	// MessageOverhead is how much longer a message is than its plaintext, in
	// bytes: a 24-byte nonce before the ciphertext and a 16-byte tag after it.
	MessageOverhead = nonceSize + gcmTagSize

	// MaxPlaintextSize is the longest plaintext in bytes, just below 64 GiB (NIST
	// SP 800-38D, section 5.2.1.1).
	MaxPlaintextSize = (1<<32 - 2) * 16
)

type selector [selectorSize]byte

// newMessageAEAD returns AES-256-GCM under the sub-key that sel picks of an
// XAES-256-GCM key. Its Seal draws the other 12 bytes of the nonce itself and
// puts them before the ciphertext, and its Open takes them from there; this is
// the only GCM that runs under GODEBUG=fips140=only (FIPS 140-3 IG C.H,
// scenario 2).
func newMessageAEAD(key *[32]byte, sel selector) (cipher.AEAD, error) {
	subkey, err := xaesSubkey(key, sel)
	if err != nil {
		return nil, err
	}
	defer clear(subkey[:])
	block, err := aes.NewCipher(subkey[:])
	if err != nil {
		return nil, invalid("derive", "%v", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, invalid("derive", "%v", err)
	}
	return aead, nil
}

// xaesSubkey is the key derivation of XAES-256-GCM: NIST SP 800-108r1 in counter
// mode with CMAC-AES256, label "X" and the selector as context. Each CMAC input
// is one block, so that CMAC comes down to one AES call on M xor K1.
func xaesSubkey(key *[32]byte, sel selector) (subkey [32]byte, err error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return subkey, invalid("derive", "%v", err)
	}
	var k1 [aes.BlockSize]byte
	block.Encrypt(k1[:], k1[:])
	double(&k1)

	for i := range 2 {
		m := [aes.BlockSize]byte{0, byte(i + 1), 'X', 0}
		copy(m[4:], sel[:])
		subtle.XORBytes(m[:], m[:], k1[:])
		block.Encrypt(subkey[i*aes.BlockSize:], m[:])
	}
	clear(k1[:])
	return subkey, nil
}

// double multiplies by x in GF(2^128), the step that makes CMAC's K1 (NIST SP
// 800-38B, section 6.1), without a branch on the secret.
func double(b *[aes.BlockSize]byte) {
	var carry byte
	for i := len(b) - 1; i >= 0; i-- {
		b[i], carry = b[i]<<1|carry, b[i]>>7
	}
	b[len(b)-1] ^= -carry & 0b10000111
}
