package envelope_test

import (
	"bytes"
	"context"
	"crypto/sha3"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/keyfold/keyfold/envelope"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew")

const vectorFile = "testdata/vectors.json"

// hexBytes is hex in JSON.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(s []byte) (err error) {
	*h, err = hex.DecodeString(string(s))
	return err
}

type vectors struct {
	Comment string          `json:"comment"`
	Valid   []validVector   `json:"valid"`
	Invalid []invalidVector `json:"invalid"`
}

type validVector struct {
	Name       string       `json:"name"`
	DEK        hexBytes     `json:"dek"`
	DEKID      hexBytes     `json:"dek_id"`
	Wraps      []vectorWrap `json:"wraps"`
	PRK        hexBytes     `json:"prk"`
	MessageKey hexBytes     `json:"message_key"`
	HeaderKey  hexBytes     `json:"header_key"`
	Header     hexBytes     `json:"header"`
	Selector   hexBytes     `json:"selector"`
	Nonce      hexBytes     `json:"nonce"`
	Subkey     hexBytes     `json:"subkey"`
	Plaintext  hexBytes     `json:"plaintext"`
	AAD        hexBytes     `json:"aad"`
	Message    hexBytes     `json:"message"`
}

type vectorWrap struct {
	KeyID     string   `json:"key_id"`
	Algorithm string   `json:"algorithm"`
	Blob      hexBytes `json:"blob"`
}

type invalidVector struct {
	Name    string   `json:"name"`
	Reason  string   `json:"reason"`
	DEK     hexBytes `json:"dek"`
	Header  hexBytes `json:"header"`
	Message hexBytes `json:"message"`
	AAD     hexBytes `json:"aad"`
}

func readVectors(t testing.TB) vectors {
	t.Helper()
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// always unwraps anything to one DEK.
func always(dek []byte) envelope.Unwrapper {
	return unwrapFunc(func(context.Context, envelope.WrappedKey) ([]byte, error) { return bytes.Clone(dek), nil })
}

// The format does not move: fixed inputs give the bytes on file.
func TestVectorsUnchanged(t *testing.T) {
	b, err := json.MarshalIndent(makeVectors(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	if *update {
		if err := os.WriteFile(vectorFile, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("what is written now differs from %s; stored data could not be read any more", vectorFile)
	}
}

func TestValidVectors(t *testing.T) {
	for _, v := range readVectors(t).Valid {
		t.Run(v.Name, func(t *testing.T) {
			d, err := decode(v.Header, v.Message, v.AAD, v.DEK)
			if err != nil {
				t.Fatalf("the independent decoder: %v", err)
			}
			for name, pair := range map[string][2][]byte{
				"PRK":         {d.prk, v.PRK},
				"message key": {d.messageKey, v.MessageKey},
				"header key":  {d.headerKey, v.HeaderKey},
				"sub-key":     {d.subkey, v.Subkey},
				"plaintext":   {d.plaintext, v.Plaintext},
				"selector":    {v.Message[:12], v.Selector},
				"nonce":       {v.Message[12:24], v.Nonce},
				"DEK id":      {v.Header[7:23], v.DEKID},
			} {
				if !bytes.Equal(pair[0], pair[1]) {
					t.Errorf("%s: decoded %x, on file %x", name, pair[0], pair[1])
				}
			}
			env := append(bytes.Clone(v.Header), v.Message...)
			p, err := envelope.NewOpener(always(v.DEK)).Open(t.Context(), env, v.AAD)
			if err != nil || !bytes.Equal(p, v.Plaintext) {
				t.Errorf("Open: %x, %v", p, err)
			}
			h, _, err := envelope.Inspect(v.Header)
			if err != nil || len(h.Wraps) != len(v.Wraps) {
				t.Fatalf("Inspect: %+v, %v", h, err)
			}
			for i, w := range v.Wraps {
				got := h.Wraps[i]
				if got.KeyID != w.KeyID || got.Algorithm != w.Algorithm || !bytes.Equal(got.Blob, w.Blob) {
					t.Errorf("wrap %d: %+v, want %+v", i, got, w)
				}
			}
		})
	}
}

func TestInvalidVectors(t *testing.T) {
	for _, v := range readVectors(t).Invalid {
		t.Run(v.Name, func(t *testing.T) {
			if d, err := decode(v.Header, v.Message, v.AAD, v.DEK); err == nil {
				t.Errorf("the independent decoder opens it to %x, in spite of: %s", d.plaintext, v.Reason)
			}
			p, err := envelope.NewOpener(always(v.DEK)).OpenDetached(t.Context(), v.Header, v.Message, v.AAD)
			if p != nil || !errors.Is(err, envelope.ErrCorrupt) {
				t.Errorf("OpenDetached: %x, %v; want ErrCorrupt for %s", p, err, v.Reason)
			}
		})
	}
}

// What a Sealer writes is what FORMAT.md says, also with several wraps.
func TestSealerFollowsFormat(t *testing.T) {
	var dek []byte
	w := wrapFunc(func(_ context.Context, d []byte) (envelope.WrappedKey, error) {
		dek = bytes.Clone(d)
		return envelope.WrappedKey{KeyID: "kek", Algorithm: "A", Blob: []byte{1}}, nil
	})
	s := newSealer(t, w, envelope.SealerOptions{})
	for _, size := range []int{0, 1, 100, 5000} {
		plaintext := random(size)
		header, message, err := s.SealDetached(t.Context(), plaintext, []byte("aad"))
		if err != nil {
			t.Fatal(err)
		}
		d, err := decode(header, message, []byte("aad"), dek)
		if err != nil || !bytes.Equal(d.plaintext, plaintext) {
			t.Errorf("%d bytes: decoded to %x, %v", size, d.plaintext, err)
		}
		header, err = newRewrapper(t, always(dek), w, newKEK("second"), newKEK("third")).Rewrap(t.Context(), header)
		if err != nil {
			t.Fatal(err)
		}
		d, err = decode(header, message, []byte("aad"), dek)
		if err != nil || !bytes.Equal(d.plaintext, plaintext) {
			t.Errorf("%d bytes, rewrapped: decoded to %x, %v", size, d.plaintext, err)
		}
	}
}

// makeVectors builds every vector from fixed inputs.
func makeVectors(t *testing.T) vectors {
	stream := sha3.NewSHAKE128()
	stream.Write([]byte("keyfold envelope vectors, version 1"))
	draw := func(n int) []byte {
		b := make([]byte, n)
		io.ReadFull(stream, b)
		return b
	}
	v := vectors{Comment: "Keyfold envelopes, version 1, see FORMAT.md. Byte strings are in hex."}
	for _, c := range []struct {
		name      string
		wraps     []vectorWrap
		plaintext []byte
		aad       []byte
	}{
		{"one wrap", []vectorWrap{{"3f9ac81b7d02e456/0f5d3c7a", "AES-256-GCM", draw(60)}}, []byte("attack at dawn"), []byte("orders/1")},
		{"empty plaintext, no associated data", []vectorWrap{{"k", "A", draw(1)}}, nil, nil},
		{"three wraps", []vectorWrap{
			{"3f9ac81b7d02e456/0f5d3c7a.2", "RSA-OAEP-256", draw(256)},
			{"3f9ac81b7d02e456/0f5d3c7b", "RSA-OAEP-256", draw(256)},
			{"a key of somebody else", "X", draw(40)},
		}, draw(100), draw(30)},
		{"longest key id and algorithm", []vectorWrap{
			{strings.Repeat("k", envelope.MaxKeyIDSize), strings.Repeat("a", envelope.MaxAlgorithmSize), draw(300)},
		}, draw(16), []byte("block")},
	} {
		v.Valid = append(v.Valid, makeValid(t, c.name, draw, c.wraps, c.plaintext, c.aad))
	}
	v.Invalid = makeInvalid(t, v.Valid[0])
	return v
}

func makeValid(t *testing.T, name string, draw func(int) []byte, wraps []vectorWrap, plaintext, aad []byte) validVector {
	v := validVector{
		Name: name, DEK: draw(32), DEKID: draw(16), Wraps: wraps, Plaintext: plaintext, AAD: aad,
		Selector: draw(12), Nonce: draw(12),
	}
	var targets []envelope.Wrapper
	for _, w := range wraps {
		targets = append(targets, wrapFunc(func(context.Context, []byte) (envelope.WrappedKey, error) {
			return envelope.WrappedKey{KeyID: w.KeyID, Algorithm: w.Algorithm, Blob: w.Blob}, nil
		}))
	}
	header, err := envelope.WrapHeader(t.Context(), v.DEK, [16]byte(v.DEKID), targets...)
	if err != nil {
		t.Fatal(err)
	}
	v.Header = header
	v.Message = sealedUnder(t, v.DEK, v)
	d, err := decode(v.Header, v.Message, v.AAD, v.DEK)
	if err != nil {
		t.Fatal(err)
	}
	v.PRK, v.MessageKey, v.HeaderKey, v.Subkey = d.prk, d.messageKey, d.headerKey, d.subkey
	return v
}

// sealedUnder is the message of v under a DEK.
func sealedUnder(t *testing.T, dek []byte, v validVector) []byte {
	key, err := envelope.MessageKey(dek, [16]byte(v.DEKID))
	if err != nil {
		t.Fatal(err)
	}
	nonce := [24]byte(append(bytes.Clone(v.Selector), v.Nonce...))
	return append(bytes.Clone(nonce[:]), sealXAES(t, &key, nonce, v.Plaintext, v.AAD)...)
}

// makeInvalid breaks one rule at a time. The tag is right again each time unless
// it is what is broken.
func makeInvalid(t *testing.T, from validVector) (all []invalidVector) {
	add := func(name, reason string, change func(v *invalidVector), retag bool) {
		v := invalidVector{
			Name: name, Reason: reason, DEK: bytes.Clone(from.DEK),
			Header: bytes.Clone(from.Header), Message: bytes.Clone(from.Message), AAD: bytes.Clone(from.AAD),
		}
		change(&v)
		if retag {
			copy(v.Header[len(v.Header)-32:], independentTag(v.Header, from.DEK, from.DEKID))
		}
		all = append(all, v)
	}
	wraps := func(w ...envelope.WrappedKey) func(v *invalidVector) {
		return func(v *invalidVector) {
			v.Header = encode(envelope.Header{Version: 1, Suite: 1, DEKID: [16]byte(from.DEKID), Wraps: w})
		}
	}
	blob := []byte{1, 2, 3, 4}
	add("magic", "another magic", func(v *invalidVector) { v.Header[2] = 'F' }, true)
	add("version", "unknown version 2", func(v *invalidVector) { v.Header[3] = 2 }, true)
	add("suite", "unknown suite 2", func(v *invalidVector) { v.Header[4] = 2 }, true)
	add("length", "header length one too large", func(v *invalidVector) {
		binary.BigEndian.PutUint16(v.Header[5:], uint16(len(v.Header)+1))
	}, true)
	add("shorter length", "header length one too small", func(v *invalidVector) {
		binary.BigEndian.PutUint16(v.Header[5:], uint16(len(v.Header)-1))
	}, true)
	add("no wraps", "wrap count 0", wraps(), true)
	add("nine wraps", "wrap count 9", wraps(manyWraps(9)...), true)
	add("empty key id", "key id of 0 bytes", wraps(envelope.WrappedKey{Algorithm: "A", Blob: blob}), true)
	add("unprintable key id", "key id with a line feed", wraps(envelope.WrappedKey{KeyID: "k\n", Algorithm: "A", Blob: blob}), true)
	add("key id twice", "two wraps with the same key id", wraps(
		envelope.WrappedKey{KeyID: "k", Algorithm: "A", Blob: blob}, envelope.WrappedKey{KeyID: "k", Algorithm: "B", Blob: blob}), true)
	add("empty algorithm", "algorithm of 0 bytes", wraps(envelope.WrappedKey{KeyID: "k", Blob: blob}), true)
	add("long algorithm", "algorithm of 65 bytes", wraps(envelope.WrappedKey{KeyID: "k", Algorithm: strings.Repeat("a", 65), Blob: blob}), true)
	add("unprintable algorithm", "algorithm with a DEL", wraps(envelope.WrappedKey{KeyID: "k", Algorithm: "A\x7f", Blob: blob}), true)
	add("empty blob", "blob of 0 bytes", wraps(envelope.WrappedKey{KeyID: "key", Algorithm: "A", Blob: nil}), true)
	add("long blob", "blob of 4097 bytes", wraps(envelope.WrappedKey{KeyID: "k", Algorithm: "A", Blob: make([]byte, 4097)}), true)
	add("bytes before the tag", "a byte between the last wrap and the tag", func(v *invalidVector) {
		v.Header = append(v.Header, 0)
		binary.BigEndian.PutUint16(v.Header[5:], uint16(len(v.Header)))
	}, true)
	add("bytes after the header", "a detached header followed by a byte", func(v *invalidVector) { v.Header = append(v.Header, 0) }, false)
	add("tag", "the header's tag, one bit", func(v *invalidVector) { v.Header[len(v.Header)-1] ^= 1 }, false)
	add("DEK id", "the DEK id, one bit, under the old tag", func(v *invalidVector) { v.Header[7] ^= 1 }, false)
	add("short DEK", "a DEK of 31 bytes, which the tag and the message are made with", func(v *invalidVector) {
		v.DEK = v.DEK[:31]
		copy(v.Header[len(v.Header)-32:], independentTag(v.Header, v.DEK, from.DEKID))
		v.Message = sealedUnder(t, v.DEK, from)
	}, false)
	add("another DEK", "a DEK that is not this header's", func(v *invalidVector) { v.DEK[0] ^= 1 }, false)
	add("short message", "a message of 39 bytes", func(v *invalidVector) { v.Message = v.Message[:39] }, false)
	add("selector", "the selector, one bit", func(v *invalidVector) { v.Message[0] ^= 1 }, false)
	add("nonce", "the nonce, one bit", func(v *invalidVector) { v.Message[12] ^= 1 }, false)
	add("ciphertext", "the ciphertext, one bit", func(v *invalidVector) { v.Message[24] ^= 1 }, false)
	add("GCM tag", "the GCM tag, one bit", func(v *invalidVector) { v.Message[len(v.Message)-1] ^= 1 }, false)
	add("associated data", "other associated data", func(v *invalidVector) { v.AAD = []byte("orders/2") }, false)
	return all
}
