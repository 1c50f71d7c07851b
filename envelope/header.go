package envelope

import (
	"encoding/binary"
	"fmt"
)

// Bounds of the format. A parser checks them before it allocates anything.
const (
	// MaxWraps is the largest number of wrapped copies of one DEK in a header.
	MaxWraps = 8
	// MaxHeaderSize is the largest header in bytes, its tag included.
	MaxHeaderSize = 16384
	// MaxKeyIDSize is the longest WrappedKey.KeyID in bytes.
	MaxKeyIDSize = 255
	// MaxAlgorithmSize is the longest WrappedKey.Algorithm in bytes.
	MaxAlgorithmSize = 64
	// MaxBlobSize is the longest WrappedKey.Blob in bytes: an RSA-4096 wrap
	// (512 bytes) and a ML-KEM-768 encapsulation (1088 bytes) fit with room.
	MaxBlobSize = 4096
)

// The format written by this version of Keyfold.
const (
	// Version1 is the only header version there is.
	Version1 = 1
	// SuiteXAES256GCM is HKDF-SHA256 for derivation, HMAC-SHA256 for the header
	// tag and XAES-256-GCM for the message.
	SuiteXAES256GCM = 1
)

// Offsets and sizes of the fixed parts, see the drawing in doc.go.
const (
	magic = "KFE"

	versionOffset = len(magic)
	suiteOffset   = versionOffset + 1
	lengthOffset  = suiteOffset + 1
	dekIDOffset   = lengthOffset + 2
	countOffset   = dekIDOffset + dekIDSize
	wrapsOffset   = countOffset + 1

	dekIDSize     = 16
	headerTagSize = 32

	// One wrap with a key id, an algorithm and a blob of one byte each.
	minWrapSize   = 1 + 1 + 1 + 1 + 2 + 1
	minHeaderSize = wrapsOffset + minWrapSize + headerTagSize
)

// Header is what an envelope tells without any key. Nothing in it may be
// trusted before the header's tag is verified, which takes the DEK; see
// [OpenHeader].
type Header struct {
	// Version and Suite say how everything else is read: [Version1],
	// [SuiteXAES256GCM].
	Version, Suite byte
	// DEKID is random, the same in every header of one DEK.
	DEKID [16]byte
	// Wraps are the copies of the DEK, 1 to [MaxWraps], each under another key.
	Wraps []WrappedKey
	// Tag is HMAC-SHA256 over all of the header before it.
	Tag [32]byte
}

// Inspect reads the header at the start of b, which may be a whole envelope or
// a detached header. It needs no key and so verifies nothing but the form. size
// is the length of the header in bytes. The header shares no memory with b.
// Every error is [ErrCorrupt].
func Inspect(b []byte) (h Header, size int, err error) {
	p, err := parseHeader(b)
	if err != nil {
		return Header{}, 0, err
	}
	return p.header(), len(p.raw), nil
}

// Split cuts a self-contained envelope into header and message, which it does
// not copy. It reads the first seven bytes only, so that it costs the same
// whatever the envelope: a cache compares the whole header with what it has
// verified before, and everybody else parses it. Every error is [ErrCorrupt].
func Split(env []byte) (header, message []byte, err error) {
	n, err := headerSize(env)
	if err != nil {
		return nil, nil, err
	}
	return env[:n:n], env[n:], nil
}

// headerSize checks the seven bytes that every version of the format begins
// with and returns the header's length, which is within b and the bounds.
func headerSize(b []byte) (int, error) {
	if len(b) < minHeaderSize {
		return 0, corrupt("header", "%d bytes are too few for a header", len(b))
	}
	if string(b[:len(magic)]) != magic {
		return 0, corrupt("header", "no Keyfold header: it does not begin with %q", magic)
	}
	if v, s := b[versionOffset], b[suiteOffset]; v != Version1 || s != SuiteXAES256GCM {
		return 0, newerFormat(v, s)
	}
	n := int(binary.BigEndian.Uint16(b[lengthOffset:]))
	if n < minHeaderSize || n > MaxHeaderSize || n > len(b) {
		return 0, corrupt("header", "length %d is not within %d to %d bytes, or not within the %d bytes at hand",
			n, minHeaderSize, MaxHeaderSize, len(b))
	}
	return n, nil
}

func newerFormat(version, suite byte) error {
	return &Error{
		Class:  ErrCorrupt,
		Op:     "header",
		Err:    fmt.Errorf("format version %d, suite %d: this Keyfold reads version %d, suite %d", version, suite, Version1, SuiteXAES256GCM),
		Remedy: "if a newer Keyfold wrote it, read it with that version or a later one",
	}
}

// parsedHeader is a header whose form is valid, as views into the bytes it was
// parsed from. It lives on the stack: parsing allocates nothing.
type parsedHeader struct {
	raw   []byte // the whole header
	count int
	wraps [MaxWraps]parsedWrap
}

type parsedWrap struct{ keyID, algorithm, blob []byte }

// parseHeader reads the header at the start of b. It accepts one encoding of
// each value only: what it accepts, Header.Append writes again byte for byte.
func parseHeader(b []byte) (p parsedHeader, err error) {
	n, err := headerSize(b)
	if err != nil {
		return p, err
	}
	p.raw = b[:n:n]
	p.count = int(b[countOffset])
	if p.count < 1 || p.count > MaxWraps {
		return p, corrupt("header", "%d wraps, not within 1 to %d", p.count, MaxWraps)
	}
	rest := p.raw[wrapsOffset : n-headerTagSize]
	for i := range p.count {
		if p.wraps[i], rest, err = parseWrap(rest); err != nil {
			return p, err
		}
		for _, earlier := range p.wraps[:i] {
			if string(earlier.keyID) == string(p.wraps[i].keyID) {
				return p, corrupt("header", "two wraps under key %q", earlier.keyID)
			}
		}
	}
	if len(rest) != 0 {
		return p, corrupt("header", "%d bytes between the last wrap and the tag", len(rest))
	}
	return p, nil
}

func parseWrap(b []byte) (w parsedWrap, rest []byte, err error) {
	if w.keyID, b, err = parseField(b, 1, MaxKeyIDSize, "key id"); err != nil {
		return w, nil, err
	}
	if w.algorithm, b, err = parseField(b, 1, MaxAlgorithmSize, "algorithm"); err != nil {
		return w, nil, err
	}
	if w.blob, b, err = parseField(b, 2, MaxBlobSize, "blob"); err != nil {
		return w, nil, err
	}
	if !printable(w.keyID) || !printable(w.algorithm) {
		return w, nil, corrupt("header", "key id or algorithm is not printable ASCII")
	}
	return w, b, nil
}

// parseField reads one value behind a big-endian length of prefix bytes.
func parseField(b []byte, prefix, limit int, name string) (value, rest []byte, err error) {
	if len(b) < prefix {
		return nil, nil, corrupt("header", "ends before the length of the %s", name)
	}
	n := 0
	for _, c := range b[:prefix] {
		n = n<<8 | int(c)
	}
	b = b[prefix:]
	if n < 1 || n > limit || n > len(b) {
		return nil, nil, corrupt("header", "%s of %d bytes, not within 1 to %d, or beyond the header's end", name, n, limit)
	}
	return b[:n:n], b[n:], nil
}

// printable keeps control characters out of logs and terminals: key ids and
// algorithms are shown before anything about them is verified.
func printable[T string | []byte](s T) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// signed is what the tag covers: all of the header before it.
func (p *parsedHeader) signed() []byte { return p.raw[:len(p.raw)-headerTagSize] }
func (p *parsedHeader) tag() []byte    { return p.raw[len(p.raw)-headerTagSize:] }
func (p *parsedHeader) dekID() (id [dekIDSize]byte) {
	copy(id[:], p.raw[dekIDOffset:])
	return id
}

// header copies everything out of the bytes parsed.
func (p *parsedHeader) header() Header {
	h := Header{
		Version: p.raw[versionOffset],
		Suite:   p.raw[suiteOffset],
		DEKID:   p.dekID(),
		Wraps:   make([]WrappedKey, p.count),
		Tag:     [headerTagSize]byte(p.tag()),
	}
	for i, w := range p.wraps[:p.count] {
		h.Wraps[i] = WrappedKey{
			KeyID:     string(w.keyID),
			Algorithm: string(w.algorithm),
			Blob:      append([]byte(nil), w.blob...),
		}
	}
	return h
}

// Append appends the canonical encoding of h to dst: for a header from
// [Inspect], the bytes it was read from. A header that no parser would accept is
// [ErrInvalid].
func (h Header) Append(dst []byte) ([]byte, error) {
	dst, err := h.appendSigned(dst)
	if err != nil {
		return nil, err
	}
	return append(dst, h.Tag[:]...), nil
}

// appendSigned appends the encoding of h without its tag.
func (h Header) appendSigned(dst []byte) ([]byte, error) {
	size, err := h.size()
	if err != nil {
		return nil, err
	}
	dst = append(dst, magic...)
	dst = append(dst, h.Version, h.Suite)
	dst = binary.BigEndian.AppendUint16(dst, uint16(size))
	dst = append(dst, h.DEKID[:]...)
	dst = append(dst, byte(len(h.Wraps)))
	for _, w := range h.Wraps {
		dst = append(dst, byte(len(w.KeyID)))
		dst = append(dst, w.KeyID...)
		dst = append(dst, byte(len(w.Algorithm)))
		dst = append(dst, w.Algorithm...)
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(w.Blob)))
		dst = append(dst, w.Blob...)
	}
	return dst, nil
}

// size returns the length of the encoding after checking every rule of it.
func (h Header) size() (int, error) {
	if h.Version != Version1 || h.Suite != SuiteXAES256GCM {
		return 0, invalid("header", "version %d, suite %d cannot be written", h.Version, h.Suite)
	}
	if len(h.Wraps) < 1 || len(h.Wraps) > MaxWraps {
		return 0, invalid("header", "%d wraps, not within 1 to %d", len(h.Wraps), MaxWraps)
	}
	size := wrapsOffset + headerTagSize
	for i, w := range h.Wraps {
		if err := w.check(); err != nil {
			return 0, err
		}
		for _, earlier := range h.Wraps[:i] {
			if earlier.KeyID == w.KeyID {
				return 0, invalid("header", "two wraps under key %q", w.KeyID)
			}
		}
		size += 1 + len(w.KeyID) + 1 + len(w.Algorithm) + 2 + len(w.Blob)
	}
	if size > MaxHeaderSize {
		return 0, invalid("header", "%d bytes, more than %d", size, MaxHeaderSize)
	}
	return size, nil
}

// check holds a back end to the bounds documented at WrappedKey.
func (w WrappedKey) check() error {
	for _, f := range []struct {
		name        string
		size, limit int
	}{
		{"key id", len(w.KeyID), MaxKeyIDSize},
		{"algorithm", len(w.Algorithm), MaxAlgorithmSize},
		{"blob", len(w.Blob), MaxBlobSize},
	} {
		if f.size < 1 || f.size > f.limit {
			return invalid("header", "wrapped key %.80q: %s of %d bytes, not within 1 to %d", w.KeyID, f.name, f.size, f.limit)
		}
	}
	if !printable(w.KeyID) || !printable(w.Algorithm) {
		return invalid("header", "wrapped key %.80q: key id or algorithm is not printable ASCII", w.KeyID)
	}
	return nil
}
