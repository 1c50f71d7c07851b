package envelope_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

func validHeader() envelope.Header {
	return envelope.Header{
		Version: envelope.Version1,
		Suite:   envelope.SuiteXAES256GCM,
		DEKID:   [16]byte{1, 2, 3},
		Wraps: []envelope.WrappedKey{
			{KeyID: "first", Algorithm: "A", Blob: []byte("blob")},
			{KeyID: "second key", Algorithm: "RSA-OAEP-256", Blob: bytes.Repeat([]byte{7}, 512)},
		},
		Tag: [32]byte{31: 9},
	}
}

// encode writes any header, also one that Header.Append refuses, from the drawing
// in FORMAT.md.
func encode(h envelope.Header) []byte {
	b := []byte("KFE")
	b = append(b, h.Version, h.Suite, 0, 0)
	b = append(b, h.DEKID[:]...)
	b = append(b, byte(len(h.Wraps)))
	for _, w := range h.Wraps {
		b = append(append(b, byte(len(w.KeyID))), w.KeyID...)
		b = append(append(b, byte(len(w.Algorithm))), w.Algorithm...)
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(w.Blob))), w.Blob...)
	}
	b = append(b, h.Tag[:]...)
	binary.BigEndian.PutUint16(b[5:], uint16(len(b)))
	return b
}

func TestHeaderRoundTrip(t *testing.T) {
	for name, change := range map[string]func(*envelope.Header){
		"two wraps": func(h *envelope.Header) {},
		"one wrap":  func(h *envelope.Header) { h.Wraps = h.Wraps[:1] },
		"most wraps": func(h *envelope.Header) {
			h.Wraps = nil
			for i := range envelope.MaxWraps {
				h.Wraps = append(h.Wraps, envelope.WrappedKey{KeyID: string(rune('a' + i)), Algorithm: "A", Blob: []byte{0}})
			}
		},
		"longest fields": func(h *envelope.Header) {
			h.Wraps[0].KeyID = strings.Repeat("k", envelope.MaxKeyIDSize)
			h.Wraps[0].Algorithm = strings.Repeat("a", envelope.MaxAlgorithmSize)
			h.Wraps[0].Blob = make([]byte, envelope.MaxBlobSize)
		},
		"largest": func(h *envelope.Header) { *h = headerOfSize(envelope.MaxHeaderSize) },
	} {
		t.Run(name, func(t *testing.T) {
			h := validHeader()
			change(&h)
			b, err := h.Append([]byte("before"))
			if err != nil {
				t.Fatal(err)
			}
			b, ok := bytes.CutPrefix(b, []byte("before"))
			if !ok || !bytes.Equal(b, encode(h)) {
				t.Fatalf("encoded\n%x, want\n%x", b, encode(h))
			}
			got, size, err := envelope.Inspect(append(b, "a message behind it"...))
			if err != nil || size != len(b) {
				t.Fatalf("Inspect: size %d, %v; want %d", size, err, len(b))
			}
			again, err := got.Append(nil)
			if err != nil || !bytes.Equal(again, b) {
				t.Errorf("re-encoded %x, %v; want %x", again, err, b)
			}
			header, message, err := envelope.Split(append(b, "message"...))
			if err != nil || !bytes.Equal(header, b) || string(message) != "message" {
				t.Errorf("Split: %x, %q, %v", header, message, err)
			}
		})
	}
}

// headerOfSize returns a header whose encoding is n bytes.
func headerOfSize(n int) envelope.Header {
	h := validHeader()
	h.Wraps = nil
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		h.Wraps = append(h.Wraps, envelope.WrappedKey{KeyID: id, Algorithm: "A", Blob: make([]byte, 3200)})
	}
	last := &h.Wraps[len(h.Wraps)-1]
	last.Blob = make([]byte, len(last.Blob)+n-len(encode(h)))
	return h
}

// Nothing that Inspect returns is a view: callers go on using their buffers.
func TestInspectCopies(t *testing.T) {
	b := encode(validHeader())
	h, _, err := envelope.Inspect(b)
	if err != nil {
		t.Fatal(err)
	}
	want := encode(h)
	clear(b)
	if got := encode(h); !bytes.Equal(got, want) {
		t.Errorf("the header changed with the bytes it was read from")
	}
}

// badHeaders breaks every rule of the format, one at a time.
var badHeaders = map[string]func() []byte{
	"empty":     func() []byte { return nil },
	"too short": func() []byte { return encode(validHeader())[:62] },
	"magic": func() []byte {
		b := encode(validHeader())
		b[0] = 'X'
		return b
	},
	"version 0":      func() []byte { h := validHeader(); h.Version = 0; return encode(h) },
	"version 2":      func() []byte { h := validHeader(); h.Version = 2; return encode(h) },
	"suite 0":        func() []byte { h := validHeader(); h.Suite = 0; return encode(h) },
	"suite 2":        func() []byte { h := validHeader(); h.Suite = 2; return encode(h) },
	"length 0":       func() []byte { return withLength(0) },
	"length 62":      func() []byte { return withLength(62) },
	"length 65535":   func() []byte { return withLength(65535) },
	"length short":   func() []byte { return withLength(len(encode(validHeader())) - 1) },
	"length long":    func() []byte { return withLength(len(encode(validHeader())) + 1) },
	"above largest":  func() []byte { return encode(headerOfSize(envelope.MaxHeaderSize + 1)) },
	"no wraps":       func() []byte { h := validHeader(); h.Wraps = nil; return encode(h) },
	"count 0":        func() []byte { return withCount(0) },
	"count short":    func() []byte { return withCount(1) },
	"count long":     func() []byte { return withCount(3) },
	"count 255":      func() []byte { return withCount(255) },
	"nine wraps":     func() []byte { h := validHeader(); h.Wraps = manyWraps(9); return encode(h) },
	"key id empty":   func() []byte { return withWrap("", "A", []byte("b")) },
	"key id newline": func() []byte { return withWrap("a\nb", "A", []byte("b")) },
	"key id DEL":     func() []byte { return withWrap("a\x7f", "A", []byte("b")) },
	"key id UTF-8":   func() []byte { return withWrap("ä", "A", []byte("b")) },
	"key id twice": func() []byte {
		h := validHeader()
		h.Wraps[1].KeyID = h.Wraps[0].KeyID
		return encode(h)
	},
	"algorithm empty": func() []byte { return withWrap("k", "", []byte("b")) },
	"algorithm long":  func() []byte { return withWrap("k", strings.Repeat("a", 65), []byte("b")) },
	"algorithm NUL":   func() []byte { return withWrap("k", "a\x00", []byte("b")) },
	"blob empty":      func() []byte { return withWrap("k", "A", nil) },
	"blob long":       func() []byte { return withWrap("k", "A", make([]byte, envelope.MaxBlobSize+1)) },
	"key id beyond the end": func() []byte {
		b := withWrap("k", "A", []byte("b"))
		b[24] = 255
		return b
	},
	"blob beyond the end": func() []byte {
		b := withWrap("k", "A", []byte("b"))
		binary.BigEndian.PutUint16(b[28:], 0x1000)
		return b
	},
}

func withLength(n int) []byte {
	b := encode(validHeader())
	binary.BigEndian.PutUint16(b[5:], uint16(n))
	return b
}

func withCount(n byte) []byte {
	b := encode(validHeader())
	b[23] = n
	return b
}

func withWrap(keyID, algorithm string, blob []byte) []byte {
	h := validHeader()
	h.Wraps = []envelope.WrappedKey{{KeyID: keyID, Algorithm: algorithm, Blob: blob}}
	return encode(h)
}

func manyWraps(n int) (w []envelope.WrappedKey) {
	for i := range n {
		w = append(w, envelope.WrappedKey{KeyID: string(rune('a' + i)), Algorithm: "A", Blob: []byte{0}})
	}
	return w
}

func TestMalformedHeaders(t *testing.T) {
	for name, make := range badHeaders {
		t.Run(name, func(t *testing.T) {
			kek := newKEK("first")
			b := make()
			if _, _, err := envelope.Inspect(b); !errors.Is(err, envelope.ErrCorrupt) {
				t.Errorf("Inspect: %v, want ErrCorrupt", err)
			}
			if _, err := envelope.OpenHeader(t.Context(), kek, b); !errors.Is(err, envelope.ErrCorrupt) {
				t.Errorf("OpenHeader: %v, want ErrCorrupt", err)
			}
			env := append(b, bytes.Repeat([]byte{0}, 100)...)
			if _, err := envelope.NewOpener(kek).Open(t.Context(), env, nil); !errors.Is(err, envelope.ErrCorrupt) {
				t.Errorf("Open: %v, want ErrCorrupt", err)
			}
			r, err := envelope.NewRewrapper(kek, kek)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Rewrap(t.Context(), b); !errors.Is(err, envelope.ErrCorrupt) {
				t.Errorf("Rewrap: %v, want ErrCorrupt", err)
			}
			s := newSealer(t, kek, envelope.SealerOptions{})
			if err := s.Resume(t.Context(), kek, b, time.Now()); !errors.Is(err, envelope.ErrCorrupt) {
				t.Errorf("Resume: %v, want ErrCorrupt", err)
			}
			if n := kek.unwrapCalls(); n != 0 {
				t.Errorf("%d unwraps of malformed headers", n)
			}
		})
	}
}

// A header that a later Keyfold wrote says so.
func TestNewerFormat(t *testing.T) {
	for _, name := range []string{"version 2", "suite 2"} {
		_, _, err := envelope.Inspect(badHeaders[name]())
		e, ok := errors.AsType[*envelope.Error](err)
		if !ok || !strings.Contains(e.Remedy, "newer Keyfold") {
			t.Errorf("%s: %v does not tell of a newer Keyfold", name, err)
		}
	}
}

func TestHeaderAppendRefuses(t *testing.T) {
	for name, change := range map[string]func(*envelope.Header){
		"version":         func(h *envelope.Header) { h.Version = 2 },
		"suite":           func(h *envelope.Header) { h.Suite = 0 },
		"no wraps":        func(h *envelope.Header) { h.Wraps = nil },
		"nine wraps":      func(h *envelope.Header) { h.Wraps = manyWraps(9) },
		"key id twice":    func(h *envelope.Header) { h.Wraps[1].KeyID = h.Wraps[0].KeyID },
		"key id empty":    func(h *envelope.Header) { h.Wraps[0].KeyID = "" },
		"key id long":     func(h *envelope.Header) { h.Wraps[0].KeyID = strings.Repeat("k", 256) },
		"key id newline":  func(h *envelope.Header) { h.Wraps[0].KeyID = "k\n" },
		"algorithm empty": func(h *envelope.Header) { h.Wraps[0].Algorithm = "" },
		"algorithm long":  func(h *envelope.Header) { h.Wraps[0].Algorithm = strings.Repeat("a", 65) },
		"algorithm UTF-8": func(h *envelope.Header) { h.Wraps[0].Algorithm = "ü" },
		"blob empty":      func(h *envelope.Header) { h.Wraps[0].Blob = nil },
		"blob long":       func(h *envelope.Header) { h.Wraps[0].Blob = make([]byte, envelope.MaxBlobSize+1) },
		"too large":       func(h *envelope.Header) { *h = headerOfSize(envelope.MaxHeaderSize + 1) },
	} {
		h := validHeader()
		change(&h)
		if b, err := h.Append(nil); !errors.Is(err, envelope.ErrInvalid) || b != nil {
			t.Errorf("%s: %x, %v; want ErrInvalid", name, b, err)
		}
	}
}

func TestInspectReadsFields(t *testing.T) {
	want := validHeader()
	got, _, err := envelope.Inspect(encode(want))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, want %+v", got, want)
	}
}

// The name a cache knows a header by is read from it without parsing, and only
// from a header of the right length.
func TestHeaderKey(t *testing.T) {
	h := validHeader()
	b := encode(h)
	id, tag, err := envelope.HeaderKey(b)
	if err != nil || id != h.DEKID || tag != h.Tag {
		t.Errorf("%x, %x, %v; want %x, %x", id, tag, err, h.DEKID, h.Tag)
	}
	for name, bad := range map[string][]byte{"cut": b[:len(b)-1], "longer": append(bytes.Clone(b), 0), "empty": nil} {
		if _, _, err := envelope.HeaderKey(bad); !errors.Is(err, envelope.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
	}
}
