package v1beta1_test

//lint:file-ignore SA1019 KMS v1 is deprecated; what it wrote has to be served all the same.

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	v1 "k8s.io/kms/apis/v1beta1"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
	"github.com/keyfold/keyfold/kmsv2"
	"github.com/keyfold/keyfold/kmsv2/v1beta1"
	"github.com/keyfold/keyfold/rotation"
)

// Where the parts of a header stand, see the format of package envelope.
const (
	versionAt = 3
	suiteAt   = 4
	lengthAt  = 5
	dekIDAt   = 7
	countAt   = 23
	keyIDAt   = 24
	tagSize   = 32

	mib = 1 << 20
)

// countingKEK counts what the vault is asked to unwrap.
type countingKEK struct {
	envelope.KEK
	unwraps atomic.Int64
	probed  chan struct{} // holds a token for the first unwrap, the ring's probe
}

func (k *countingKEK) Underlying() envelope.KEK { return k.KEK }

func (k *countingKEK) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	dek, err := k.KEK.Unwrap(ctx, w)
	if k.unwraps.Add(1) == 1 {
		k.probed <- struct{}{}
	}
	return dek, err
}

// handler serves KMS v1 in this process, under a key of its own.
type handler struct {
	v1.KeyManagementServiceServer
	kek *countingKEK
}

// startHandler returns when the ring's first probe is over. The next is an hour off,
// so that every unwrap counted from then on is a request's.
func startHandler(t testing.TB) handler {
	t.Helper()
	hsm, err := hsmsim.Open(filepath.Join(t.TempDir(), "hsm"), hsmsim.Options{})
	must(t, err)
	t.Cleanup(func() { hsm.Close() })
	version, err := hsm.CreateKey(context.Background(), "kek", hsmsim.AES256)
	must(t, err)
	kek, err := hsm.KEK(hsmsim.Ref{Name: "kek", Version: version.Version})
	must(t, err)
	counting := &countingKEK{KEK: kek, probed: make(chan struct{}, 1)}
	ring, err := rotation.New(rotation.Config{Current: rotation.Key{KEK: counting}}, rotation.Options{ProbeInterval: time.Hour})
	must(t, err)
	svc, err := kmsv2.New(ring, kmsv2.Options{})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		must(t, <-ended)
		svc.Close()
	})
	<-counting.probed
	return handler{v1beta1.Handler(svc), counting}
}

func (h handler) seal(t testing.TB, plain string) []byte {
	t.Helper()
	r, err := h.Encrypt(context.Background(), &v1.EncryptRequest{Plain: []byte(plain)})
	must(t, err)
	return r.Cipher
}

// refuses checks that cipher does not open, and returns how often the vault was
// asked about it.
func (h handler) refuses(t testing.TB, what string, cipher []byte, want codes.Code) int64 {
	t.Helper()
	before := h.kek.unwraps.Load()
	r, err := h.Decrypt(context.Background(), &v1.DecryptRequest{Cipher: cipher})
	if r != nil || kmsv2.Code(err) != want {
		t.Errorf("%s: %v, %v; want %v", what, r, err, want)
	}
	return h.kek.unwraps.Load() - before
}

// malformed returns ciphers that cannot be what any Encrypt returned. They name a
// DEK that no cache has seen, so that nothing but their form is in the vault's way.
func malformed(good []byte) map[string][]byte {
	with := func(change func(c []byte)) []byte {
		c := bytes.Clone(good)
		rand.Read(c[dekIDAt:countAt])
		change(c)
		return c
	}
	set := func(at int, b byte) []byte { return with(func(c []byte) { c[at] = b }) }
	length := func(at, n int) []byte {
		return with(func(c []byte) { binary.BigEndian.PutUint16(c[at:], uint16(n)) })
	}
	algorithmAt := keyIDAt + 1 + int(good[keyIDAt])
	blobAt := algorithmAt + 1 + int(good[algorithmAt])
	header := int(binary.BigEndian.Uint16(good[lengthAt:]))
	return map[string][]byte{
		"nil":                    nil,
		"empty":                  {},
		"another magic":          set(0, 'X'),
		"version 0":              set(versionAt, 0),
		"version 2":              set(versionAt, 2),
		"version 255":            set(versionAt, 255),
		"suite 0":                set(suiteAt, 0),
		"suite 2":                set(suiteAt, 2),
		"suite 255":              set(suiteAt, 255),
		"a header of 0 bytes":    length(lengthAt, 0),
		"a header cut by a byte": length(lengthAt, header-1),
		"a header with a byte":   length(lengthAt, header+1),
		"a header past the end":  length(lengthAt, len(good)+1),
		"a header of 64 KiB":     length(lengthAt, 1<<16-1),
		"no wraps":               set(countAt, 0),
		"a wrap too many":        set(countAt, 2),
		"255 wraps":              set(countAt, 255),
		"no key id":              set(keyIDAt, 0),
		"a key id of 255 bytes":  set(keyIDAt, 255),
		"a key id with a NUL":    set(keyIDAt+1, 0),
		"no algorithm":           set(algorithmAt, 0),
		"255 bytes of algorithm": set(algorithmAt, 255),
		"no blob":                length(blobAt, 0),
		"64 KiB of blob":         length(blobAt, 1<<16-1),
		"1 MiB of zeros":         make([]byte, mib),
		"1 MiB after a magic":    append([]byte("KFE\x01\x01\xff\xff"), make([]byte, mib)...),
		"a header alone":         good[:header],
		"no room for a tag":      good[:header+envelope.MessageOverhead-1],
	}
}

// A bad request gets an error of its class, and costs the vault nothing.
func TestBadRequests(t *testing.T) {
	h := startHandler(t)
	good := h.seal(t, "object key")
	_, header, err := envelope.Inspect(good)
	must(t, err)

	var asked int64
	for what, cipher := range malformed(good) {
		asked += h.refuses(t, what, cipher, codes.InvalidArgument)
	}
	for size := range good {
		asked += h.refuses(t, "cut", good[:size], codes.InvalidArgument)
	}
	asked += h.refuses(t, "a trailing byte", append(bytes.Clone(good), 0), codes.InvalidArgument)
	asked += h.refuses(t, "1 MiB behind the header", append(bytes.Clone(good), make([]byte, mib)...), codes.InvalidArgument)
	asked += h.refuses(t, "another ring's", startHandler(t).seal(t, "object key"), codes.NotFound)

	// Every bit. The header of a DEK that nobody has seen looks like one that was lost
	// from memory: the vault is asked, and then the header's tag is wrong. Of a DEK
	// that is in memory, any other header is known for false without the vault.
	unseen := func(i int) bool { return i >= dekIDAt && i < countAt || i >= header-tagSize && i < header }
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			n := h.refuses(t, "a flipped bit", bad, codes.InvalidArgument)
			if unseen(i) {
				n-- // one unwrap, not more
			}
			if n != 0 {
				t.Errorf("bit %d of byte %d: %d unwraps too many", bit, i, n)
			}
		}
	}
	if asked != 0 {
		t.Errorf("the vault was asked %d times", asked)
	}
	if r, err := h.Decrypt(t.Context(), &v1.DecryptRequest{Cipher: good}); err != nil || string(r.Plain) != "object key" {
		t.Errorf("what was written no longer opens: %v, %v", r, err)
	}
}

// Without the DEK in memory, a flipped bit of a header is found by its tag at the
// latest; a key id that names no key of the ring never reaches the vault.
func TestFlippedHeadersOfUnseenKeys(t *testing.T) {
	h := startHandler(t)
	good := h.seal(t, "object key")
	_, header, err := envelope.Inspect(good)
	must(t, err)
	own := good[keyIDAt+1 : keyIDAt+1+envelope.FamilySize]
	for i := range header {
		for bit := range 8 {
			bad := bytes.Clone(good[:header])
			rand.Read(bad[dekIDAt:countAt])
			bad[i] ^= 1 << bit
			checkRefused(t, h, append(bad, good[header:]...), own)
		}
	}
}

// checkRefused checks the refusal of any cipher but a true one: its class, and that
// the vault is asked once at most, about nothing malformed and about no other's key.
func checkRefused(t *testing.T, h handler, cipher, family []byte) {
	t.Helper()
	before := h.kek.unwraps.Load()
	r, err := h.Decrypt(context.Background(), &v1.DecryptRequest{Cipher: cipher})
	if code := kmsv2.Code(err); r != nil || code != codes.InvalidArgument && code != codes.NotFound {
		t.Errorf("Decrypt(%x) = %v, %v", cipher, r, err)
	}
	var most int64
	parsed, _, err := envelope.Inspect(cipher)
	if err == nil {
		for _, w := range parsed.Wraps {
			if bytes.HasPrefix([]byte(w.KeyID), family) {
				most++
			}
		}
	}
	if n := h.kek.unwraps.Load() - before; n > most {
		t.Errorf("%d unwraps for %x, at most %d", n, cipher, most)
	}
}

func TestBadPlaintexts(t *testing.T) {
	h := startHandler(t)
	for _, size := range []int{0, kmsv2.MaxSealed + 1, 1 << 16, mib} {
		r, err := h.Encrypt(t.Context(), &v1.EncryptRequest{Plain: make([]byte, size)})
		if r != nil || kmsv2.Code(err) != codes.InvalidArgument {
			t.Errorf("a plaintext of %d bytes: %v, %v", size, r, err)
		}
	}
	// What the API server stores has 16 bits for the cipher's length.
	if c := h.seal(t, string(make([]byte, kmsv2.MaxSealed))); len(c) >= 1<<16 {
		t.Errorf("a cipher of %d bytes", len(c))
	}
}

// What is refused costs no memory of its size.
func TestNoLargeAllocation(t *testing.T) {
	h := startHandler(t)
	good := h.seal(t, "object key")
	ciphers := malformed(good)
	ciphers["1 MiB behind a true header"] = append(bytes.Clone(good), make([]byte, mib)...)
	plain := &v1.EncryptRequest{Plain: make([]byte, mib)}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for what, cipher := range ciphers {
		h.refuses(t, what, cipher, codes.InvalidArgument)
	}
	if _, err := h.Encrypt(t.Context(), plain); kmsv2.Code(err) != codes.InvalidArgument {
		t.Errorf("Encrypt of 1 MiB: %v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > mib/2 {
		t.Errorf("%d bytes allocated for what was refused", n)
	}
}

// FuzzOpen: no cipher but the one that was written opens, whatever else is sent is
// the sender's mistake, and the vault hears of nothing malformed.
func FuzzOpen(f *testing.F) {
	h := startHandler(f)
	good := h.seal(f, "object key")
	family := good[keyIDAt+1 : keyIDAt+1+envelope.FamilySize]
	f.Add(good)
	f.Add(startHandler(f).seal(f, "object key"))
	for _, cipher := range malformed(good) {
		if len(cipher) < mib {
			f.Add(cipher)
		}
	}
	f.Fuzz(func(t *testing.T, cipher []byte) {
		if !bytes.Equal(cipher, good) {
			checkRefused(t, h, cipher, family)
			return
		}
		r, err := h.Decrypt(context.Background(), &v1.DecryptRequest{Cipher: cipher})
		if err != nil || string(r.Plain) != "object key" {
			t.Errorf("Decrypt = %v, %v", r, err)
		}
	})
}
