package stored_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/kmsv2/stored"
)

const answered = "what the plugin answered"

// records returns the records of testdata/records.txt by name.
func records(t testing.TB) map[string][]byte {
	t.Helper()
	f, err := os.Open("testdata/records.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string][]byte{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		b, err := hex.DecodeString(fields[1])
		if err != nil {
			t.Fatalf("%s: %v", fields[0], err)
		}
		all[fields[0]] = b
	}
	return all
}

func TestParseWhatAPIServersWrite(t *testing.T) {
	several := []string{"a.example.com=1", "b.example.com=", "c.example.com.=3"}
	header := []string{"header.kms.keyfold.dev=header"}
	for name, want := range map[string]struct {
		kind        stored.Kind
		provider    string
		keyID       string
		annotations []string
		source      stored.DEKSource
		dataSize    int
	}{
		// The sizes: 10 bytes of plaintext; 12 of nonce and 16 of tag for AES-GCM, 32
		// more of HKDF info; an IV and padding to blocks of 16 for AES-CBC; 24 and 16
		// for secretbox.
		"kms-v1":                                {stored.KMSv1, "old", "", nil, 0, 38},
		"kms-v2-seed=false-annotations=none":    {stored.KMSv2, "fold", "key-1", nil, stored.DEKSourceKey, 38},
		"kms-v2-seed=false-annotations=one":     {stored.KMSv2, "fold", "key-1", header, stored.DEKSourceKey, 38},
		"kms-v2-seed=false-annotations=several": {stored.KMSv2, "fold", "key-1", several, stored.DEKSourceKey, 38},
		"kms-v2-seed=true-annotations=none":     {stored.KMSv2, "fold", "key-1", nil, stored.DEKSourceSeed, 70},
		"kms-v2-seed=true-annotations=one":      {stored.KMSv2, "fold", "key-1", header, stored.DEKSourceSeed, 70},
		"kms-v2-seed=true-annotations=several":  {stored.KMSv2, "fold", "key-1", several, stored.DEKSourceSeed, 70},
		"aescbc":                                {stored.Other, "key1", "", nil, 0, 32},
		"aesgcm":                                {stored.Other, "key1", "", nil, 0, 38},
		"secretbox":                             {stored.Other, "key1", "", nil, 0, 50},
	} {
		t.Run(name, func(t *testing.T) {
			value, ok := records(t)[name]
			if !ok {
				t.Fatal("no such record in testdata")
			}
			r, err := stored.Parse(value)
			if err != nil {
				t.Fatal(err)
			}
			if r.Kind != want.kind || r.Name != want.provider || r.KeyID != want.keyID || r.DEKSource != want.source {
				t.Errorf("kind %s, name %q, key id %q, source %d", r.Kind, r.Name, r.KeyID, r.DEKSource)
			}
			if wantDEK := r.Kind != stored.Other; wantDEK != (string(r.EncryptedDEK) == answered) {
				t.Errorf("encrypted DEK %q", r.EncryptedDEK)
			}
			if r.Kind == stored.Other && r.Provider != name {
				t.Errorf("provider %q", r.Provider)
			}
			if len(r.Data) != want.dataSize {
				t.Errorf("%d bytes of data, want %d", len(r.Data), want.dataSize)
			}
			var annotations []string
			for _, a := range r.Annotations {
				annotations = append(annotations, a.Name+"="+string(a.Value))
			}
			slices.Sort(annotations)
			if !slices.Equal(annotations, want.annotations) {
				t.Errorf("annotations %q, want %q", annotations, want.annotations)
			}
			again, err := r.Append([]byte("kept"))
			if err != nil || !bytes.Equal(again, append([]byte("kept"), value...)) {
				t.Errorf("re-encoded as %q, %v", again, err)
			}
		})
	}
}

func TestIdentity(t *testing.T) {
	for _, value := range []string{"", "k", "k8s\x00protobuf", `{"kind":"Secret"}`, "k8s:en", "K8S:ENC:kms:v2:x:y", " k8s:enc:kms:v2:x:y"} {
		r, err := stored.Parse([]byte(value))
		if err != nil || r.Kind != stored.Identity || string(r.Data) != value || r.Provider != "" {
			t.Errorf("Parse(%q) = %+v, %v", value, r, err)
		}
	}
}

func TestOtherProviders(t *testing.T) {
	r, err := stored.Parse([]byte("k8s:enc:kms:v3:fold:data with : colons"))
	if err != nil || r.Kind != stored.Other || r.Provider != "kms" || r.Version != "v3" || r.Name != "fold" || string(r.Data) != "data with : colons" {
		t.Errorf("a later KMS version: %+v, %v", r, err)
	}
}

// message builds protobuf by hand, so that the tests can say what no encoder would.
type message []byte

func (m message) field(num protowire.Number, v string) message {
	return protowire.AppendString(protowire.AppendTag(m, num, protowire.BytesType), v)
}

func (m message) varint(num protowire.Number, v uint64) message {
	return protowire.AppendVarint(protowire.AppendTag(m, num, protowire.VarintType), v)
}

func (m message) annotation(name, value string) message {
	return m.field(4, string(message{}.field(1, name).field(2, value)))
}

func (m message) raw(b ...byte) message { return append(m, b...) }

func v2(m message) string { return "k8s:enc:kms:v2:fold:" + string(m) }

func required() message {
	return message{}.field(1, "data").field(2, "key-1").field(3, answered)
}

func TestParseRefuses(t *testing.T) {
	label := strings.Repeat("a", 63)
	for name, value := range map[string]string{
		"prefix alone":             "k8s:enc:",
		"provider without version": "k8s:enc:aescbc",
		"no name":                  "k8s:enc:aescbc:v1:",
		"empty provider":           "k8s:enc::v1:name:data",
		"empty name":               "k8s:enc:kms:v1::data",
		"no data":                  "k8s:enc:secretbox:v1:key1:",

		"v1 nothing":        "k8s:enc:kms:v1:fold:",
		"v1 half a length":  "k8s:enc:kms:v1:fold:\x00",
		"v1 truncated DEK":  "k8s:enc:kms:v1:fold:\x00\x05four",
		"v1 oversized DEK":  "k8s:enc:kms:v1:fold:\xff\xfffour",
		"v1 empty DEK":      "k8s:enc:kms:v1:fold:\x00\x00data",
		"v1 no data":        "k8s:enc:kms:v1:fold:\x00\x04four",
		"v2 nothing":        v2(nil),
		"v2 no data":        v2(message{}.field(2, "key-1").field(3, answered)),
		"v2 no key id":      v2(message{}.field(1, "data").field(3, answered)),
		"v2 no DEK":         v2(message{}.field(1, "data").field(2, "key-1")),
		"v2 empty data":     v2(message{}.field(1, "").field(2, "key-1").field(3, answered)),
		"v2 long key id":    v2(message{}.field(1, "data").field(2, strings.Repeat("k", 1025)).field(3, answered)),
		"v2 key id no text": v2(message{}.field(1, "data").field(2, "key\xff").field(3, answered)),
		"v2 long DEK":       v2(message{}.field(1, "data").field(2, "key-1").field(3, strings.Repeat("c", 1025))),
		"v2 out of order":   v2(message{}.field(2, "key-1").field(1, "data").field(3, answered)),
		"v2 key id twice":   v2(message{}.field(1, "data").field(2, "key-1").field(2, "key-2").field(3, answered)),
		"v2 unknown field":  v2(required().field(6, "new")),
		"v2 zero source":    v2(required().varint(5, 0)),
		"v2 unknown source": v2(required().varint(5, 2)),
		"v2 source twice":   v2(required().varint(5, 1).varint(5, 1)),
		"v2 long varint":    v2(required().raw(0x28, 0x81, 0x00)),
		"v2 long tag":       v2(required().raw(0xa8, 0x00, 0x01)),
		"v2 wrong type":     v2(message{}.varint(1, 7).field(2, "key-1").field(3, answered)),
		"v2 endless varint": v2(required().raw(bytes.Repeat([]byte{0xff}, 20)...)),
		"v2 length 2^63":    v2(required().raw(0x22, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f)),
		"v2 trailing":       v2(required().raw(0)),

		"annotation without key":   v2(required().field(4, string(message{}.field(2, "v")))),
		"annotation without value": v2(required().field(4, string(message{}.field(1, "a.b")))),
		"annotation reversed":      v2(required().field(4, string(message{}.field(2, "v").field(1, "a.b")))),
		"annotation with more":     v2(required().field(4, string(message{}.field(1, "a.b").field(2, "v").field(3, "w")))),
		"annotation twice":         v2(required().annotation("a.b", "1").annotation("a.b", "2")),
		"annotation one label":     v2(required().annotation("local", "1")),
		"annotation slash":         v2(required().annotation("kms.kubernetes.io/local-kek", "1")),
		"annotation upper case":    v2(required().annotation("Kms.example.com", "1")),
		"annotation empty label":   v2(required().annotation("kms..com", "1")),
		"annotation two dots":      v2(required().annotation("kms.com..", "1")),
		"annotation hyphen":        v2(required().annotation("kms-.com", "1")),
		"annotation long label":    v2(required().annotation(label+"a.com", "1")),
		"annotation long name":     v2(required().annotation(strings.Repeat(label+".", 4)+"com", "1")),
		"annotation no name":       v2(required().annotation("", "1")),
		"annotations too large":    v2(required().annotation("a.b", strings.Repeat("v", 32*1024-2))),
		"annotations too large together": v2(required().
			annotation("a.b", strings.Repeat("v", 16*1024)).annotation("c.d", strings.Repeat("v", 16*1024))),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := stored.Parse([]byte(value))
			if !errors.Is(err, envelope.ErrCorrupt) {
				t.Errorf("Parse = %+v, %v; want %v", r, err, envelope.ErrCorrupt)
			}
		})
	}
}

func TestParseAtTheLimits(t *testing.T) {
	label := strings.Repeat("a", 63)
	longest := strings.Repeat(label+".", 3) + label[:61]
	for name, value := range map[string]string{
		"v1 DEK of 65535 bytes": "k8s:enc:kms:v1:fold:\xff\xff" + strings.Repeat("d", 1<<16-1) + "data",
		"key id of 1024 bytes":  v2(message{}.field(1, "data").field(2, strings.Repeat("k", 1024)).field(3, answered)),
		"DEK of 1024 bytes":     v2(message{}.field(1, "data").field(2, "key-1").field(3, strings.Repeat("c", 1024))),
		"annotations of 32 KiB": v2(required().annotation("a.b", strings.Repeat("v", 32*1024-3))),
		"name of 253 bytes":     v2(required().annotation(longest, "")),
		"trailing dot":          v2(required().annotation(longest+".", "v").varint(5, 1)),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := stored.Parse([]byte(value))
			if err != nil {
				t.Fatal(err)
			}
			if again, err := r.Append(nil); err != nil || string(again) != value {
				t.Errorf("re-encoded to %d bytes, %v; want the same %d", len(again), err, len(value))
			}
		})
	}
}

// TestEveryTruncation: a record cut anywhere is an error or, where only the encrypted
// object at the end is shorter, still a record that re-encodes; never a panic.
func TestEveryTruncation(t *testing.T) {
	for name, value := range records(t) {
		for n := range value {
			property(t, value[:n])
			if t.Failed() {
				t.Fatalf("%s cut at %d", name, n)
			}
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	kms := stored.Record{Kind: stored.KMSv2, Provider: "kms", Version: "v2", Name: "fold", KeyID: "k", EncryptedDEK: []byte("d"), Data: []byte("x")}
	if _, err := kms.Append(nil); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(r *stored.Record){
		"colon in a name":     func(r *stored.Record) { r.Name = "a:b" },
		"kind against prefix": func(r *stored.Record) { r.Kind = stored.KMSv1 },
		"kind other, kms prefix": func(r *stored.Record) {
			*r = stored.Record{Kind: stored.Other, Provider: "kms", Version: "v2", Name: "n", Data: []byte("x")}
		},
		"unknown source":   func(r *stored.Record) { r.DEKSource = 2 },
		"no data":          func(r *stored.Record) { r.Data = nil },
		"annotation twice": func(r *stored.Record) { r.Annotations = stored.Annotations{{Name: "a.b"}, {Name: "a.b"}} },
		"v1 with a key id": func(r *stored.Record) { r.Kind, r.Version = stored.KMSv1, "v1" },
		"v1 DEK of 64 KiB": func(r *stored.Record) {
			*r = stored.Record{Kind: stored.KMSv1, Provider: "kms", Version: "v1", Name: "n", EncryptedDEK: make([]byte, 1<<16), Data: []byte("x")}
		},
		"identity, named":         func(r *stored.Record) { *r = stored.Record{Name: "n"} },
		"identity with a DEK":     func(r *stored.Record) { *r = stored.Record{EncryptedDEK: []byte("d")} },
		"identity, reserved data": func(r *stored.Record) { *r = stored.Record{Data: []byte("k8s:enc:x")} },
	} {
		t.Run(name, func(t *testing.T) {
			r := kms
			change(&r)
			if out, err := r.Append([]byte("kept")); !errors.Is(err, envelope.ErrInvalid) || string(out) != "kept" {
				t.Errorf("Append = %q, %v; want the destination and %v", out, err, envelope.ErrInvalid)
			}
		})
	}
}

// property: what is refused is corrupt; what is accepted re-encodes to the same bytes
// and parses to the same record again.
func property(t *testing.T, value []byte) {
	t.Helper()
	value = append([]byte{}, value...) // never nil, for DeepEqual
	before := bytes.Clone(value)
	r, err := stored.Parse(value)
	if !bytes.Equal(value, before) {
		t.Fatal("Parse changed its input")
	}
	if err != nil {
		if !errors.Is(err, envelope.ErrCorrupt) {
			t.Fatalf("refused with %v, want %v", err, envelope.ErrCorrupt)
		}
		return
	}
	again, err := r.Append([]byte{})
	if err != nil || !bytes.Equal(again, value) {
		t.Fatalf("%q re-encodes to %q, %v", value, again, err)
	}
	if r2, err := stored.Parse(again); err != nil || !reflect.DeepEqual(r2, r) {
		t.Fatalf("parsed again: %+v, %v; want %+v", r2, err, r)
	}
}

func FuzzRecord(f *testing.F) {
	for _, value := range records(f) {
		f.Add(value)
	}
	f.Add([]byte(v2(required().annotation("a.b", "").annotation("c.d", "v").varint(5, 1))))
	f.Add([]byte("k8s:enc:"))
	f.Add([]byte("plaintext"))
	f.Fuzz(property)
}
