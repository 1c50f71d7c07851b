package stored_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/kmsv2/stored"
)

// header makes a header that is well formed, which is all that can be told without a key.
func header(t *testing.T) []byte {
	t.Helper()
	h := envelope.Header{Version: 1, Suite: 1, Wraps: []envelope.WrappedKey{{KeyID: "3f9ac81b7d02e456/1", Algorithm: "A256GCM", Blob: []byte("blob")}}}
	b, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHeader(t *testing.T) {
	h := header(t)
	v1 := func(dek []byte) stored.Record {
		return stored.Record{Kind: stored.KMSv1, Provider: "kms", Version: "v1", Name: "fold", EncryptedDEK: dek, Data: []byte("data")}
	}
	v2 := func(as ...stored.Annotation) stored.Record {
		return stored.Record{Kind: stored.KMSv2, Provider: "kms", Version: "v2", Name: "fold", KeyID: "k",
			EncryptedDEK: []byte("message"), Annotations: as, Data: []byte("data")}
	}
	ours := func(value []byte) stored.Annotation {
		return stored.Annotation{Name: stored.HeaderAnnotation, Value: value}
	}
	other := stored.Annotation{Name: "version.example.com", Value: h}

	for name, c := range map[string]struct {
		record stored.Record
		want   error
	}{
		"v1":                    {v1(append(bytes.Clone(h), "message"...)), nil},
		"v2":                    {v2(other, ours(h)), nil},
		"v1 of somebody else":   {v1([]byte("\x01\x02\x03 RSA")), envelope.ErrUnknownKey},
		"v1 truncated":          {v1(h[:len(h)-1]), envelope.ErrCorrupt},
		"v2 of somebody else":   {v2(other), envelope.ErrUnknownKey},
		"v2 empty":              {v2(ours(nil)), envelope.ErrCorrupt},
		"v2 truncated":          {v2(ours(h[:len(h)-1])), envelope.ErrCorrupt},
		"v2 with bytes after":   {v2(ours(append(bytes.Clone(h), 0))), envelope.ErrCorrupt},
		"encrypted without KMS": {stored.Record{Kind: stored.Other, Provider: "aescbc", Version: "v1", Name: "k", Data: []byte("x")}, envelope.ErrUnknownKey},
		"plaintext":             {stored.Record{Data: []byte("plain")}, envelope.ErrUnknownKey},
	} {
		t.Run(name, func(t *testing.T) {
			value, err := c.record.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			r, err := stored.Parse(value)
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.Header()
			if c.want != nil {
				if !errors.Is(err, c.want) || got != nil {
					t.Errorf("Header = %d bytes, %v; want %v", len(got), err, c.want)
				}
				return
			}
			if err != nil || !bytes.Equal(got, h) {
				t.Errorf("Header = %d bytes, %v; want the %d of the header", len(got), err, len(h))
			}
		})
	}
}
