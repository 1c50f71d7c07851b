package stored

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/keyfold/keyfold/envelope"
)

// encryptedPrefix is reserved: the identity transformer of an API server refuses to
// read or write a value that begins with it.
const encryptedPrefix = "k8s:enc:"

// Kind is the shape of a record.
type Kind int

const (
	// Identity is plaintext: the value carries no encryption prefix.
	Identity Kind = iota
	// KMSv1 was encrypted under a DEK of its own, wrapped by a KMS v1 plugin.
	KMSv1
	// KMSv2 was encrypted under a DEK that a KMS v2 plugin wrapped, shared with
	// other records.
	KMSv2
	// Other was encrypted by a provider without a KMS, such as aescbc, aesgcm or
	// secretbox; Record.Provider names it.
	Other
)

// String returns "identity", "kms v1", "kms v2" or "other".
func (k Kind) String() string {
	switch k {
	case Identity:
		return "identity"
	case KMSv1:
		return "kms v1"
	case KMSv2:
		return "kms v2"
	case Other:
		return "other"
	}
	return fmt.Sprintf("kind %d", int(k))
}

// Record is one value as an API server stored it. Which fields are set depends on
// Kind.
type Record struct {
	Kind Kind

	// Provider and Version are the second and third part of the prefix: "kms" and
	// "v2", "aescbc" and "v1". Name is the fourth: the provider's name in the
	// EncryptionConfiguration for KMS, the key's name otherwise. They are empty for
	// Identity and hold no colon.
	Provider, Version, Name string

	// EncryptedDEK is the plugin's ciphertext (KMSv1 and KMSv2): 1 to 65535 bytes
	// for KMS v1, 1 to [MaxEncryptedDEKSize] for KMS v2.
	EncryptedDEK []byte

	// KeyID, Annotations and DEKSource are the plugin's answer to Encrypt and what
	// its ciphertext holds (KMSv2). KeyID is 1 to [MaxKeyIDSize] bytes.
	KeyID       string
	Annotations Annotations
	DEKSource   DEKSource

	// Data is the encrypted object, or the object itself for Identity.
	Data []byte
}

// Parse reads one stored value. A value that begins with the reserved prefix and
// could not have been written by an API server is [envelope.ErrCorrupt].
func Parse(value []byte) (Record, error) {
	if !bytes.HasPrefix(value, []byte(encryptedPrefix)) {
		return Record{Data: value}, nil
	}
	r, err := parseEncrypted(value[len(encryptedPrefix):])
	if err != nil {
		return Record{}, &envelope.Error{Class: envelope.ErrCorrupt, Op: "parse stored record", Err: err}
	}
	return r, nil
}

func parseEncrypted(b []byte) (Record, error) {
	var r Record
	for _, part := range []struct {
		name string
		to   *string
	}{{"provider", &r.Provider}, {"version", &r.Version}, {"name", &r.Name}} {
		i := bytes.IndexByte(b, ':')
		if i < 1 {
			return Record{}, fmt.Errorf("the prefix has no %s", part.name)
		}
		*part.to, b = string(b[:i]), b[i+1:]
	}
	r.Kind = kindOf(r.Provider, r.Version)
	var err error
	switch r.Kind {
	case KMSv1:
		err = r.parseV1(b)
	case KMSv2:
		err = r.parseV2(b)
	default:
		r.Data = b
	}
	if err == nil {
		err = r.validate()
	}
	if err != nil {
		return Record{}, fmt.Errorf("%s record of provider %.80q: %w", r.Kind, r.Name, err)
	}
	return r, nil
}

func kindOf(provider, version string) Kind {
	switch {
	case provider == "kms" && version == "v1":
		return KMSv1
	case provider == "kms" && version == "v2":
		return KMSv2
	}
	return Other
}

// Append appends the stored form of r to dst: for a record that came from [Parse], the
// very bytes it was parsed from. A record that no API server would write or read is
// [envelope.ErrInvalid], and dst is returned unchanged.
func (r Record) Append(dst []byte) ([]byte, error) {
	if err := r.validate(); err != nil {
		return dst, &envelope.Error{Class: envelope.ErrInvalid, Op: "encode stored record", Err: err}
	}
	if r.Kind == Identity {
		return append(dst, r.Data...), nil
	}
	dst = append(dst, encryptedPrefix...)
	for _, part := range []string{r.Provider, r.Version, r.Name} {
		dst = append(append(dst, part...), ':')
	}
	switch r.Kind {
	case KMSv1:
		return r.appendV1(dst), nil
	case KMSv2:
		return r.appendV2(dst), nil
	}
	return append(dst, r.Data...), nil
}

// validate is what an API server requires of a record beyond its encoding, and what
// makes the encoding unambiguous. Parse and Append share it, so neither makes what
// the other refuses.
func (r Record) validate() error {
	if r.Kind == Identity {
		if r.Provider != "" || r.Version != "" || r.Name != "" {
			return errors.New("plaintext has no provider")
		}
		if bytes.HasPrefix(r.Data, []byte(encryptedPrefix)) {
			return fmt.Errorf("plaintext begins with the reserved prefix %q", encryptedPrefix)
		}
		return r.mustLackKMSv2Fields()
	}
	for _, part := range []string{r.Provider, r.Version, r.Name} {
		if part == "" || strings.Contains(part, ":") {
			return fmt.Errorf("prefix part %.80q is empty or holds a colon", part)
		}
	}
	if got := kindOf(r.Provider, r.Version); got != r.Kind {
		return fmt.Errorf("provider %q %q is of kind %s, not %s", r.Provider, r.Version, got, r.Kind)
	}
	if len(r.Data) == 0 {
		return errors.New("the encrypted data is empty")
	}
	switch r.Kind {
	case KMSv2:
		return r.validateV2()
	case KMSv1:
		if n := len(r.EncryptedDEK); n == 0 || n > maxUint16 {
			return fmt.Errorf("the encrypted DEK is %d bytes, not 1 to %d", n, maxUint16)
		}
	}
	return r.mustLackKMSv2Fields()
}

func (r Record) mustLackKMSv2Fields() error {
	if r.KeyID != "" || len(r.Annotations) > 0 || r.DEKSource != 0 || (r.Kind != KMSv1 && len(r.EncryptedDEK) > 0) {
		return fmt.Errorf("a record of kind %s has no such KMS fields", r.Kind)
	}
	return nil
}
