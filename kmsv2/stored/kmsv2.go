package stored

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// The limits that API servers put on what a KMS v2 plugin answers and check again on
// every read (k8s.io/apiserver, pkg/storage/value/encrypt/envelope/kmsv2/envelope.go).
const (
	MaxKeyIDSize        = 1024
	MaxEncryptedDEKSize = 1024
	// MaxAnnotationsSize bounds the names and values of all annotations together.
	MaxAnnotationsSize = 32 * 1024
)

// DEKSource tells what the plaintext of Record.EncryptedDEK is.
type DEKSource int

const (
	// DEKSourceKey is the AES-GCM key itself.
	DEKSourceKey DEKSource = 0
	// DEKSourceSeed is a seed from which HKDF-SHA256 derives a key for each record.
	DEKSourceSeed DEKSource = 1
)

// The fields of EncryptedObject, in the order in which API servers write them: both
// Go protobuf runtimes that were ever used sort fields by number.
const (
	fieldData protowire.Number = iota + 1
	fieldKeyID
	fieldEncryptedDEK
	fieldAnnotation
	fieldDEKSource
)

// The fields of a map entry. Both are always written, even when empty.
const (
	entryKey   protowire.Number = 1
	entryValue protowire.Number = 2
)

func (r *Record) parseV2(b []byte) error {
	p := wireReader{rest: b}
	r.Data = p.optionalBytes(fieldData)
	r.KeyID = string(p.optionalBytes(fieldKeyID))
	r.EncryptedDEK = p.optionalBytes(fieldEncryptedDEK)
	for size := 0; p.next(fieldAnnotation, protowire.BytesType); {
		entry := wireReader{rest: p.bytes()}
		key := entry.requiredBytes(entryKey)
		value := entry.requiredBytes(entryValue)
		if err := errors.Join(p.err, entry.end()); err != nil {
			return fmt.Errorf("annotation: %w", err)
		}
		// Checked here as well as in validate: what is kept must stay bounded
		// while it is being read.
		if size += len(key) + len(value); size > MaxAnnotationsSize {
			return errAnnotationsTooLarge
		}
		r.Annotations = append(r.Annotations, Annotation{Name: string(key), Value: value})
	}
	if p.next(fieldDEKSource, protowire.VarintType) {
		switch v := p.varint(); v {
		case uint64(DEKSourceSeed):
			r.DEKSource = DEKSourceSeed
		default:
			return fmt.Errorf("unknown or explicitly zero source type %d of the DEK", v)
		}
	}
	return p.end()
}

func (r Record) appendV2(dst []byte) []byte {
	dst = appendBytes(dst, fieldData, r.Data)
	dst = appendBytes(dst, fieldKeyID, []byte(r.KeyID))
	dst = appendBytes(dst, fieldEncryptedDEK, r.EncryptedDEK)
	for _, a := range r.Annotations {
		size := protowire.SizeTag(entryKey) + protowire.SizeBytes(len(a.Name)) +
			protowire.SizeTag(entryValue) + protowire.SizeBytes(len(a.Value))
		dst = protowire.AppendTag(dst, fieldAnnotation, protowire.BytesType)
		dst = protowire.AppendVarint(dst, uint64(size))
		dst = appendBytes(dst, entryKey, []byte(a.Name))
		dst = appendBytes(dst, entryValue, a.Value)
	}
	if r.DEKSource != DEKSourceKey { // proto3 writes no zero
		dst = protowire.AppendTag(dst, fieldDEKSource, protowire.VarintType)
		dst = protowire.AppendVarint(dst, uint64(r.DEKSource))
	}
	return dst
}

func (r Record) validateV2() error {
	if n := len(r.KeyID); n == 0 || n > MaxKeyIDSize || !utf8.ValidString(r.KeyID) {
		return fmt.Errorf("the key id is %d bytes, not 1 to %d of UTF-8", n, MaxKeyIDSize)
	}
	if n := len(r.EncryptedDEK); n == 0 || n > MaxEncryptedDEKSize {
		return fmt.Errorf("the encrypted DEK is %d bytes, not 1 to %d", n, MaxEncryptedDEKSize)
	}
	if r.DEKSource != DEKSourceKey && r.DEKSource != DEKSourceSeed {
		return fmt.Errorf("unknown source type %d of the DEK", r.DEKSource)
	}
	return r.Annotations.validate()
}
