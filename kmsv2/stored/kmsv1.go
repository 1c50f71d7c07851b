package stored

import (
	"encoding/binary"
	"errors"
)

const maxUint16 = 1<<16 - 1

// parseV1 reads the body of a KMS v1 record:
//
//	u16 length (big endian) || encrypted DEK || data
//
// (k8s.io/apiserver, pkg/storage/value/encrypt/envelope/envelope.go.) The data is
// AES-CBC from old API servers and AES-GCM from newer ones; nothing in it tells which.
func (r *Record) parseV1(b []byte) error {
	if len(b) < 2 {
		return errors.New("truncated before the length of the encrypted DEK")
	}
	n, b := int(binary.BigEndian.Uint16(b)), b[2:]
	if len(b) < n {
		return errors.New("truncated within the encrypted DEK")
	}
	r.EncryptedDEK, r.Data = b[:n:n], b[n:]
	return nil
}

func (r Record) appendV1(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(r.EncryptedDEK)))
	dst = append(dst, r.EncryptedDEK...)
	return append(dst, r.Data...)
}
