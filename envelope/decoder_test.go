package envelope_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
)

// A second reader of the format, written from FORMAT.md and nothing else, with
// plain calls of the standard library. It shares no code with the package.

// decoded is a plaintext and all that led to it.
type decoded struct{ prk, messageKey, headerKey, subkey, plaintext []byte }

func decode(header, message, aad, dek []byte) (d decoded, err error) {
	if err := checkForm(header); err != nil {
		return d, err
	}
	if len(message) < 40 {
		return d, errors.New("short message")
	}
	if len(dek) != 32 {
		return d, errors.New("the DEK is not 32 bytes")
	}
	d.prk = hmacSHA256(header[7:23], dek)
	d.headerKey = expand(d.prk, "keyfold/header")
	d.messageKey = expand(d.prk, "keyfold/message")
	body, tag := header[:len(header)-32], header[len(header)-32:]
	if !hmac.Equal(tag, hmacSHA256(d.headerKey, body)) {
		return d, errors.New("header tag")
	}
	d.subkey = xaes(d.messageKey, message[:12])
	block, err := aes.NewCipher(d.subkey)
	if err != nil {
		return d, err
	}
	fips140.WithoutEnforcement(func() { // refuses to choose nonces, and we only read one
		gcm, gcmErr := cipher.NewGCM(block)
		if err = gcmErr; err == nil {
			d.plaintext, err = gcm.Open(nil, message[12:24], message[24:], aad)
		}
	})
	return d, err
}

// checkForm applies section 1.
func checkForm(h []byte) error {
	if len(h) < 63 || len(h) > 16384 || string(h[:3]) != "KFE" || h[3] != 1 || h[4] != 1 {
		return errors.New("size, magic, version or suite")
	}
	if int(binary.BigEndian.Uint16(h[5:])) != len(h) {
		return errors.New("header length")
	}
	count, at, end := int(h[23]), 24, len(h)-32
	if count < 1 || count > 8 {
		return errors.New("wrap count")
	}
	seen := make(map[string]bool)
	for i := range count {
		for _, f := range []struct {
			name            string
			width, max      int
			printable, once bool
		}{{"key id", 1, 255, true, true}, {"algorithm", 1, 64, true, false}, {"blob", 2, 4096, false, false}} {
			if at+f.width > end {
				return fmt.Errorf("wrap %d: no length of the %s", i, f.name)
			}
			n := int(h[at])
			if f.width == 2 {
				n = int(binary.BigEndian.Uint16(h[at:]))
			}
			at += f.width
			if n < 1 || n > f.max || at+n > end {
				return fmt.Errorf("wrap %d: length of the %s", i, f.name)
			}
			value := string(h[at : at+n])
			at += n
			for _, c := range []byte(value) {
				if f.printable && (c < 0x20 || c > 0x7e) {
					return fmt.Errorf("wrap %d: %s not printable", i, f.name)
				}
			}
			if f.once && seen[value] {
				return fmt.Errorf("wrap %d: key id again", i)
			}
			seen[value] = seen[value] || f.once
		}
	}
	if at != end {
		return errors.New("bytes before the tag")
	}
	return nil
}

func hmacSHA256(key, data []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(data)
	return m.Sum(nil)
}

// expand is HKDF-Expand for one block (RFC 5869, section 2.3).
func expand(prk []byte, label string) []byte {
	return hmacSHA256(prk, append([]byte(label), 1 /* version */, 1 /* suite */, 1 /* block */))
}

// xaes is the sub-key of section 4.
func xaes(key, selector []byte) []byte {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	l := make([]byte, 16)
	block.Encrypt(l, l)
	hi, lo := binary.BigEndian.Uint64(l), binary.BigEndian.Uint64(l[8:])
	k1 := binary.BigEndian.AppendUint64(nil, hi<<1|lo>>63)
	k1 = binary.BigEndian.AppendUint64(k1, lo<<1)
	if hi>>63 == 1 {
		k1[15] ^= 0x87
	}
	var subkey []byte
	for i := byte(1); i <= 2; i++ {
		m := append([]byte{0, i, 0x58, 0}, selector...)
		subtle.XORBytes(m, m, k1)
		block.Encrypt(m, m)
		subkey = append(subkey, m...)
	}
	return subkey
}

// independentTag is the tag that a header of any form would have.
func independentTag(header, dek, dekID []byte) []byte {
	key := expand(hmacSHA256(dekID, dek), "keyfold/header")
	return hmacSHA256(key, header[:len(header)-32])
}
