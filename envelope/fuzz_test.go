package envelope_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keyfold/keyfold/envelope"
)

// What parses re-encodes to the same bytes, and every reader agrees on what
// parses.
func FuzzHeader(f *testing.F) {
	for _, v := range readVectors(f).Valid {
		f.Add([]byte(v.Header))
		f.Add(append(bytes.Clone(v.Header), v.Message...))
	}
	for _, v := range readVectors(f).Invalid {
		f.Add([]byte(v.Header))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, size, err := envelope.Inspect(b)
		if err != nil {
			if !errors.Is(err, envelope.ErrCorrupt) {
				t.Fatalf("%v, want ErrCorrupt", err)
			}
			if size != 0 || h.Wraps != nil {
				t.Fatal("a header beside an error")
			}
			if checkForm(b) == nil {
				t.Fatalf("refused, but FORMAT.md allows it: %v", err)
			}
			return
		}
		if err := checkForm(b[:size]); err != nil {
			t.Fatalf("accepted, but FORMAT.md does not allow it: %v", err)
		}
		again, err := h.Append(nil)
		if err != nil || !bytes.Equal(again, b[:size]) {
			t.Fatalf("re-encoded to %x, %v", again, err)
		}
		header, message, err := envelope.Split(b)
		if err != nil || !bytes.Equal(header, b[:size]) || !bytes.Equal(message, b[size:]) {
			t.Fatalf("Split disagrees: %x, %x, %v", header, message, err)
		}
	})
}

// Nothing opens but the very envelopes that were sealed, with the very associated
// data, to the very plaintexts; everything else is corrupt.
func FuzzEnvelope(f *testing.F) {
	valid := readVectors(f).Valid
	for _, v := range valid {
		f.Add(append(bytes.Clone(v.Header), v.Message...), []byte(v.AAD))
	}
	f.Fuzz(func(t *testing.T, env, aad []byte) {
		for _, v := range valid {
			opener := envelope.NewOpener(always(v.DEK))
			p, err := opener.Open(t.Context(), env, aad)
			genuine := bytes.Equal(env, append(bytes.Clone(v.Header), v.Message...)) && bytes.Equal(aad, v.AAD)
			switch {
			case genuine && (err != nil || !bytes.Equal(p, v.Plaintext)):
				t.Fatalf("a genuine envelope: %x, %v", p, err)
			case !genuine && (p != nil || !errors.Is(err, envelope.ErrCorrupt)):
				t.Fatalf("a forged envelope: %x, %v; want ErrCorrupt", p, err)
			}
		}
	})
}

// A key id that parses is written the same again, and is one that a header may
// carry.
func FuzzKeyID(f *testing.F) {
	for _, s := range []string{family + "/v", family + "/0f5d3c.2", family + "/v.0", family + "/v.01", "x/y", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := envelope.ParseKeyID(s)
		if err != nil {
			if !errors.Is(err, envelope.ErrUnknownKey) {
				t.Fatalf("%v, want ErrUnknownKey", err)
			}
			return
		}
		if id.String() != s {
			t.Fatalf("%q is written as %q", s, id.String())
		}
		h := validHeader()
		h.Wraps[0].KeyID = s
		if _, err := h.Append(nil); err != nil {
			t.Fatalf("no header takes %q: %v", s, err)
		}
	})
}
