package hsmsim

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
)

// KeySpec is the kind of a key.
type KeySpec string

// The kinds of keys. AES keys serve [A256GCM], RSA keys [RSAOAEP256].
const (
	AES256  KeySpec = "AES-256"
	RSA2048 KeySpec = "RSA-2048"
	RSA3072 KeySpec = "RSA-3072"
	RSA4096 KeySpec = "RSA-4096"
)

// rsaBits returns the modulus size, or 0 for a key that is not RSA.
func (s KeySpec) rsaBits() int {
	switch s {
	case RSA2048:
		return 2048
	case RSA3072:
		return 3072
	case RSA4096:
		return 4096
	}
	return 0
}

func (s KeySpec) valid() bool { return s == AES256 || s.rsaBits() != 0 }

// algorithm is the one that keys of this kind serve.
func (s KeySpec) algorithm() string {
	if s == AES256 {
		return A256GCM
	}
	return RSAOAEP256
}

// generate makes the material of a new key version.
func (s KeySpec) generate() ([]byte, error) {
	if s == AES256 {
		b := make([]byte, 32)
		rand.Read(b)
		return b, nil
	}
	k, err := rsa.GenerateKey(rand.Reader, s.rsaBits())
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKCS8PrivateKey(k)
}

// readyKey is key material ready for use; one of rsa and aead is set.
type readyKey struct {
	once sync.Once
	rsa  *rsa.PrivateKey
	aead cipher.AEAD
	err  error
}

// use parses the material once.
func (v *keyVersion) use() (*readyKey, error) {
	v.ready.once.Do(func() {
		v.ready.rsa, v.ready.aead, v.ready.err = parseMaterial(v.Spec, v.Material)
	})
	return v.ready, v.ready.err
}

func parseMaterial(spec KeySpec, material []byte) (*rsa.PrivateKey, cipher.AEAD, error) {
	if spec == AES256 {
		block, err := aes.NewCipher(material)
		if err != nil {
			return nil, nil, fmt.Errorf("AES key: %w", err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		return nil, aead, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(material)
	if err != nil {
		return nil, nil, errors.New("the RSA key cannot be parsed")
	}
	k, ok := parsed.(*rsa.PrivateKey)
	if !ok || k.N.BitLen() != spec.rsaBits() {
		return nil, nil, fmt.Errorf("the material is no %s key", spec)
	}
	return k, nil, nil
}
