package hsmsim

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"

	"github.com/keyfold/keyfold/envelope"
)

// The state file, big endian:
//
//	magic "KFHSMSIM" 8 | version 1 | kdf 1 | salt 16 | time 4 | memory KiB 4 | threads 1
//	nonce 12 || ciphertext || GCM tag 16          associated data: the header above
//	SHA-256 of everything before                  32
//
// The checksum protects nothing from an attacker, the tag does. It tells damage
// from a wrong key, which GCM alone cannot: these call for opposite remedies.
const (
	stateMagic    = "KFHSMSIM"
	stateVersion  = 1
	kdfKeyFile    = 1 // HKDF-SHA256 over the 32 bytes of the key file; time, memory, threads are 0
	kdfPassphrase = 2 // argon2id
	saltSize      = 16
	headerSize    = len(stateMagic) + 1 + 1 + saltSize + 4 + 4 + 1
	sealOverhead  = headerSize + 12 + 16 + sha256.Size
	maxStateSize  = 64 << 20
	sealKeySize   = 32
	sealLabel     = "keyfold hsmsim state v1"
)

// The second recommended option of RFC 9106, section 4: 64 MiB and 3 passes. What
// a file may ask for is bounded, so that a damaged one cannot exhaust the machine.
const (
	argonTime, argonMemoryKiB, argonThreads          = 3, 64 << 10, 4
	argonMaxTime, argonMaxMemoryKiB, argonMaxThreads = 16, 1 << 20, 16
)

// A sealer seals and opens one folder's state. It keeps the derived key and not
// the passphrase; the header, salt included, stays the same for the life of the
// folder, and the random nonce makes each sealing different.
type sealer struct {
	header []byte
	aead   cipher.AEAD
}

// secret is what the operator supplies: a passphrase or the key file's content.
type secret struct {
	kdf   byte
	bytes []byte
}

// newSealer draws the header of a new folder.
func newSealer(s secret) (*sealer, error) {
	h := make([]byte, 0, headerSize)
	h = append(h, stateMagic...)
	h = append(h, stateVersion, s.kdf)
	salt := make([]byte, saltSize)
	rand.Read(salt)
	h = append(h, salt...)
	if s.kdf == kdfPassphrase {
		h = binary.BigEndian.AppendUint32(h, argonTime)
		h = binary.BigEndian.AppendUint32(h, argonMemoryKiB)
		h = append(h, argonThreads)
	} else {
		h = append(h, make([]byte, 9)...)
	}
	return deriveSealer(h, s)
}

// sealerFor derives the sealer of an existing state file, whose frame has been
// checked by [checkFrame].
func sealerFor(file []byte, s secret) (*sealer, error) {
	header := bytes.Clone(file[:headerSize])
	if kdf := header[len(stateMagic)+1]; kdf != s.kdf {
		want := "its key file (Options.KeyFile)"
		if kdf == kdfPassphrase {
			want = "its passphrase (Options.Passphrase)"
		}
		return nil, fail(envelope.ErrUnauthenticated, "open", "", errors.New("the folder is sealed in another way"), "open it with "+want)
	}
	return deriveSealer(header, s)
}

func deriveSealer(header []byte, s secret) (*sealer, error) {
	rest := header[len(stateMagic)+2:]
	salt, rest := rest[:saltSize], rest[saltSize:]
	time, memory, threads := binary.BigEndian.Uint32(rest), binary.BigEndian.Uint32(rest[4:]), rest[8]

	var key []byte
	switch s.kdf {
	case kdfPassphrase:
		if time < 1 || time > argonMaxTime || memory < 8*uint32(threads) || memory > argonMaxMemoryKiB || threads < 1 || threads > argonMaxThreads {
			return nil, corruptState("argon2 parameters out of bounds: time %d, memory %d KiB, threads %d", time, memory, threads)
		}
		key = argon2.IDKey(s.bytes, salt, time, memory, threads, sealKeySize)
	default:
		if time != 0 || memory != 0 || threads != 0 {
			return nil, corruptState("a key file needs no argon2 parameters")
		}
		var err error
		if key, err = hkdf.Key(sha256.New, s.bytes, salt, sealLabel, sealKeySize); err != nil {
			return nil, fmt.Errorf("derive the sealing key: %w", err)
		}
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("sealing key: %w", err)
	}
	return &sealer{header: header, aead: aead}, nil
}

// seal returns the whole file.
func (s *sealer) seal(plaintext []byte) []byte {
	file := make([]byte, 0, sealOverhead+len(plaintext))
	file = append(file, s.header...)
	file = s.aead.Seal(file, nil, plaintext, s.header)
	sum := sha256.Sum256(file)
	return append(file, sum[:]...)
}

// open is the inverse. It refuses the file of any other HSM.
func (s *sealer) open(file []byte) ([]byte, error) {
	if err := checkFrame(file); err != nil {
		return nil, err
	}
	if !bytes.Equal(file[:headerSize], s.header) {
		return nil, fail(envelope.ErrUnauthenticated, "open", "", errors.New("the folder now holds another HSM"), "open it again")
	}
	plaintext, err := s.aead.Open(nil, nil, file[headerSize:len(file)-sha256.Size], s.header)
	if err != nil {
		return nil, fail(envelope.ErrUnauthenticated, "open", "", errors.New("the passphrase or key file does not open this folder"),
			"use the passphrase or key file that the folder was created with")
	}
	return plaintext, nil
}

// checkFrame checks everything that can be checked without a key.
func checkFrame(file []byte) error {
	switch {
	case len(file) < sealOverhead:
		return corruptState("%d bytes are too few", len(file))
	case len(file) > maxStateSize:
		return corruptState("%d bytes are too many", len(file))
	case string(file[:len(stateMagic)]) != stateMagic:
		return corruptState("this is not a state file")
	}
	body, sum := file[:len(file)-sha256.Size], file[len(file)-sha256.Size:]
	if want := sha256.Sum256(body); subtle.ConstantTimeCompare(want[:], sum) != 1 {
		return corruptState("the checksum does not match")
	}
	if v := file[len(stateMagic)]; v != stateVersion {
		return corruptState("format version %d is not %d, which this version of the program knows", v, stateVersion)
	}
	if kdf := file[len(stateMagic)+1]; kdf != kdfKeyFile && kdf != kdfPassphrase {
		return corruptState("unknown key derivation %d", kdf)
	}
	return nil
}

func corruptState(format string, args ...any) error {
	return fail(envelope.ErrCorrupt, "open", "", fmt.Errorf("state file: "+format, args...), "restore "+stateFile+" from a backup")
}
