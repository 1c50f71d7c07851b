package hsmsim

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/keyfold/keyfold/envelope"
)

// The algorithms, by the names of RFC 7518 and Key Vault.
const (
	// A256GCM is AES-256-GCM with a random 96-bit nonce, for AES-256 keys.
	A256GCM = "A256GCM"
	// RSAOAEP256 is RSAES-OAEP with SHA-256, MGF1 with SHA-256 and no label
	// (RFC 8017, section 7.1), for RSA keys.
	RSAOAEP256 = "RSA-OAEP-256"
)

const (
	gcmIVSize  = 12
	gcmTagSize = 16
)

// Params are the input of one cryptographic operation, as a vault's wire has them.
type Params struct {
	// Algorithm has to be the one of the key's kind.
	Algorithm string
	// Value is the plaintext or the ciphertext. RSA takes plaintexts of at most
	// k-66 bytes for a modulus of k, ciphertexts of exactly k.
	Value []byte
	// AAD is bound by A256GCM and has to be empty for RSA.
	AAD []byte
	// IV, 12 bytes, and Tag, 16 bytes, belong to A256GCM's ciphertext. The HSM
	// draws the IV: encrypting with a given one is refused.
	IV, Tag []byte
}

// Result is the output. Version is the one that was used.
type Result struct {
	Version string
	Value   []byte
	IV, Tag []byte
}

// Encrypt encrypts under a version of a key; "" is the latest.
func (h *HSM) Encrypt(ctx context.Context, name, version string, p Params) (Result, error) {
	return h.seal(ctx, OpEncrypt, name, version, p)
}

// WrapKey is Encrypt under another permission, as in Key Vault.
func (h *HSM) WrapKey(ctx context.Context, name, version string, p Params) (Result, error) {
	return h.seal(ctx, OpWrapKey, name, version, p)
}

// Decrypt decrypts under a version of a key. As in Key Vault, "" is the latest,
// which is the wrong one after a rotation: pass Result.Version.
func (h *HSM) Decrypt(ctx context.Context, name, version string, p Params) (Result, error) {
	return h.open(ctx, OpDecrypt, name, version, p)
}

// UnwrapKey is Decrypt under another permission, as in Key Vault.
func (h *HSM) UnwrapKey(ctx context.Context, name, version string, p Params) (Result, error) {
	return h.open(ctx, OpUnwrapKey, name, version, p)
}

func (h *HSM) seal(ctx context.Context, op Operation, name, version string, p Params) (Result, error) {
	var res Result
	v, err := h.useKey(ctx, op, name, version, func(v *keyVersion, k *readyKey, label string) error {
		if err := checkParams(op, v, p, label); err != nil {
			return err
		}
		if len(p.IV) != 0 || len(p.Tag) != 0 {
			return invalid(string(op), label, "leave IV and Tag empty", "the HSM draws the IV itself")
		}
		out, err := k.encrypt(p.Value, p.AAD)
		if err != nil {
			return fail(envelope.ErrInvalid, string(op), label, err, "encrypt less")
		}
		if p.Algorithm == A256GCM {
			n := len(out) - gcmTagSize
			res = Result{IV: out[:gcmIVSize:gcmIVSize], Value: out[gcmIVSize:n:n], Tag: out[n:]}
		} else {
			res = Result{Value: out}
		}
		return nil
	})
	res.Version = v
	return res, err
}

func (h *HSM) open(ctx context.Context, op Operation, name, version string, p Params) (Result, error) {
	var res Result
	v, err := h.useKey(ctx, op, name, version, func(v *keyVersion, k *readyKey, label string) error {
		if err := checkParams(op, v, p, label); err != nil {
			return err
		}
		in := p.Value
		if p.Algorithm == A256GCM {
			if len(p.IV) != gcmIVSize || len(p.Tag) != gcmTagSize {
				return invalid(string(op), label, "pass what the encryption returned", "IV of %d bytes, tag of %d", len(p.IV), len(p.Tag))
			}
			in = make([]byte, 0, len(p.IV)+len(p.Value)+len(p.Tag))
			in = append(append(append(in, p.IV...), p.Value...), p.Tag...)
		}
		out, err := k.decrypt(in, p.AAD)
		if err != nil {
			return notAuthentic(op, label)
		}
		res.Value = out
		return nil
	})
	res.Version = v
	return res, err
}

func checkParams(op Operation, v *keyVersion, p Params, label string) error {
	if want := v.Spec.algorithm(); p.Algorithm != want {
		return invalid(string(op), label, "use "+want, "algorithm %.80q does not fit a key of kind %s", p.Algorithm, v.Spec)
	}
	if p.Algorithm == RSAOAEP256 && len(p.AAD)+len(p.IV)+len(p.Tag) != 0 {
		return invalid(string(op), label, "leave AAD, IV and Tag empty", "RSA binds no associated data")
	}
	return nil
}

// notAuthentic says no more than that: which check failed is nobody's business
// (RFC 8017, section 7.1.2, note).
func notAuthentic(op Operation, label string) error {
	return fail(envelope.ErrCorrupt, string(op), label, errors.New("this key did not make the ciphertext, or it was changed"),
		"restore the data from a backup")
}

// useKey performs an operation that uses a key, and enforces its attributes. It
// returns the version used.
func (h *HSM) useKey(ctx context.Context, op Operation, name, version string, f func(*keyVersion, *readyKey, string) error) (string, error) {
	r := h.request(op, name, version)
	err := h.perform(ctx, r, func(s *state) error {
		v, err := s.find(r)
		if err != nil {
			return err
		}
		r.version, r.label = v.Version, h.label(name, v.Version)
		if err := v.permits(op, r.label, h.now()); err != nil {
			return err
		}
		k, err := v.use()
		if err != nil {
			return unusable(string(op), r.label, err)
		}
		return f(v, k, r.label)
	})
	if err != nil {
		return "", err
	}
	return r.version, nil
}

// encrypt returns nonce || ciphertext || tag, or the RSA ciphertext.
func (k *readyKey) encrypt(plaintext, aad []byte) ([]byte, error) {
	if k.rsa != nil {
		return rsa.EncryptOAEP(sha256.New(), rand.Reader, &k.rsa.PublicKey, plaintext, nil)
	}
	return k.aead.Seal(nil, nil, plaintext, aad), nil
}

// decrypt is the inverse. RSA ciphertexts have one length only: crypto/rsa would
// also take a shorter one, which would give a wrap two encodings.
func (k *readyKey) decrypt(ciphertext, aad []byte) ([]byte, error) {
	if k.rsa != nil {
		if len(ciphertext) != k.rsa.Size() {
			return nil, fmt.Errorf("%d bytes are no ciphertext of this key", len(ciphertext))
		}
		return rsa.DecryptOAEP(sha256.New(), nil, k.rsa, ciphertext, nil)
	}
	return k.aead.Open(nil, nil, ciphertext, aad)
}
