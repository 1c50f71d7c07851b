package kmsv2_test

import (
	"bytes"
	"context"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
	"github.com/keyfold/keyfold/kmsv2"
)

const mib = 1 << 20

// A bad request gets an error of its class, and costs the vault nothing.
func TestBadRequests(t *testing.T) {
	v := newVault(t)
	ref := v.key("kek")
	p := start(t, setup{ring: v.current(ref)})
	p.status()
	good := request(p.encrypt("seed"))
	foreignVault := newVault(t)
	foreignRef := foreignVault.key("kek")
	foreign := request(sealedUnder(t, foreignVault.kek(foreignRef), foreignVault.id(foreignRef)))

	with := func(change func(r *service.DecryptRequest)) *service.DecryptRequest {
		r := &service.DecryptRequest{Ciphertext: bytes.Clone(good.Ciphertext), KeyID: good.KeyID, Annotations: maps.Clone(good.Annotations)}
		change(r)
		return r
	}
	header := good.Annotations[kmsv2.AnnotationHeader]
	cases := map[string]struct {
		req  *service.DecryptRequest
		code codes.Code
	}{
		"nil":                 {nil, codes.InvalidArgument},
		"empty":               {&service.DecryptRequest{}, codes.InvalidArgument},
		"no key id":           {with(func(r *service.DecryptRequest) { r.KeyID = "" }), codes.InvalidArgument},
		"another key id":      {with(func(r *service.DecryptRequest) { r.KeyID = foreign.KeyID }), codes.InvalidArgument},
		"another epoch":       {with(func(r *service.DecryptRequest) { r.KeyID += ".7" }), codes.InvalidArgument},
		"a huge key id":       {with(func(r *service.DecryptRequest) { r.KeyID = strings.Repeat("k", mib) }), codes.InvalidArgument},
		"no ciphertext":       {with(func(r *service.DecryptRequest) { r.Ciphertext = nil }), codes.InvalidArgument},
		"1 MiB of ciphertext": {with(func(r *service.DecryptRequest) { r.Ciphertext = make([]byte, mib) }), codes.InvalidArgument},
		"another ciphertext":  {with(func(r *service.DecryptRequest) { r.Ciphertext = foreign.Ciphertext }), codes.InvalidArgument},
		"no annotations":      {with(func(r *service.DecryptRequest) { r.Annotations = nil }), codes.InvalidArgument},
		"another annotation": {with(func(r *service.DecryptRequest) {
			r.Annotations = map[string][]byte{"kms.example.com": header}
		}), codes.InvalidArgument},
		"an annotation too many": {with(func(r *service.DecryptRequest) { r.Annotations["kms.example.com"] = nil }), codes.InvalidArgument},
		"an empty header":        {with(func(r *service.DecryptRequest) { r.Annotations[kmsv2.AnnotationHeader] = nil }), codes.InvalidArgument},
		"1 MiB of header": {with(func(r *service.DecryptRequest) {
			r.Annotations[kmsv2.AnnotationHeader] = make([]byte, mib)
		}), codes.InvalidArgument},
		"a trailing byte": {with(func(r *service.DecryptRequest) {
			r.Annotations[kmsv2.AnnotationHeader] = append(bytes.Clone(header), 0)
		}), codes.InvalidArgument},
		"an unknown key": {foreign, codes.NotFound},
	}
	before := v.operations(hsmsim.OpUnwrapKey)
	for name, c := range cases {
		got, err := p.Decrypt(context.Background(), "", c.req)
		if err == nil || got != nil || kmsv2.Code(err) != c.code {
			t.Errorf("%s: %q, %v (%v, want %v)", name, got, err, kmsv2.Code(err), c.code)
		}
	}
	for i := range header {
		truncated := with(func(r *service.DecryptRequest) { r.Annotations[kmsv2.AnnotationHeader] = header[:i] })
		if _, err := p.Decrypt(context.Background(), "", truncated); kmsv2.Code(err) != codes.InvalidArgument {
			t.Errorf("a header cut to %d bytes: %v", i, err)
		}
	}
	for i := range good.Ciphertext {
		spoilt := []*service.DecryptRequest{with(func(r *service.DecryptRequest) { r.Ciphertext = r.Ciphertext[:i] })}
		for bit := range 8 {
			spoilt = append(spoilt, with(func(r *service.DecryptRequest) { r.Ciphertext[i] ^= 1 << bit }))
		}
		for _, r := range spoilt {
			if got, err := p.Decrypt(context.Background(), "", r); got != nil || kmsv2.Code(err) != codes.InvalidArgument {
				t.Errorf("a ciphertext spoilt at byte %d: %q, %v", i, got, err)
			}
		}
	}
	if n := v.operations(hsmsim.OpUnwrapKey) - before; n != 0 {
		t.Errorf("the vault was asked %d times", n)
	}

	// A flipped bit of a header may name a version that the vault has to be asked
	// about; it never opens, and it is never a fault of the service.
	for bit := range 8 * len(header) {
		r := with(func(r *service.DecryptRequest) {
			h := bytes.Clone(header)
			h[bit/8] ^= 1 << (bit % 8)
			r.Annotations[kmsv2.AnnotationHeader] = h
			if parsed, _, err := envelope.Inspect(h); err == nil {
				r.KeyID = parsed.Wraps[0].KeyID
			}
		})
		got, err := p.Decrypt(context.Background(), "", r)
		allowed := []codes.Code{codes.InvalidArgument, codes.NotFound}
		if err == nil || got != nil || !slices.Contains(allowed, kmsv2.Code(err)) {
			t.Errorf("a header flipped at bit %d of byte %d: %q, %v", bit%8, bit/8, got, err)
		}
	}
	p.status()
	p.opens(&service.EncryptResponse{Ciphertext: good.Ciphertext, KeyID: good.KeyID, Annotations: good.Annotations}, "seed")
}

// What is refused costs no memory of its size.
func TestNoLargeAllocation(t *testing.T) {
	p := start(t, setup{ring: oneKey(t), quiet: true})
	p.status()
	good := p.encrypt("seed")
	header := good.Annotations[kmsv2.AnnotationHeader]
	huge := append(bytes.Clone(header), make([]byte, mib)...)
	env, err := p.Seal(context.Background(), testDomain, []byte("object key"))
	must(t, err)
	decrypt := func(keyID string, ciphertext, header []byte) func() error {
		r := &service.DecryptRequest{KeyID: keyID, Ciphertext: ciphertext, Annotations: map[string][]byte{kmsv2.AnnotationHeader: header}}
		return func() error { _, err := p.Decrypt(context.Background(), "", r); return err }
	}
	open := func(env []byte) func() error {
		return func() error { _, err := p.Open(context.Background(), testDomain, env); return err }
	}
	calls := map[string]func() error{
		"a ciphertext of 1 MiB":         decrypt(good.KeyID, huge, header),
		"a header of 1 MiB":             decrypt(good.KeyID, good.Ciphertext, huge),
		"a key id of 1 MiB":             decrypt(string(huge), good.Ciphertext, header),
		"an envelope of 1 MiB":          open(append(env, huge...)),
		"1 MiB without a header":        open(make([]byte, mib)),
		"a plaintext of 1 MiB":          func() error { _, err := p.Encrypt(context.Background(), "", huge); return err },
		"a plaintext of 1 MiB to Seal":  func() error { _, err := p.Seal(context.Background(), testDomain, huge); return err },
		"a header that lies, and 1 MiB": open(append([]byte("KFE\x01\x01\xff\xff"), huge...)),
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for name, call := range calls {
		if err := call(); kmsv2.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > mib/2 {
		t.Errorf("%d bytes allocated for what was refused", n)
	}
}

func TestBadPlaintexts(t *testing.T) {
	p := start(t, setup{ring: oneKey(t)})
	p.status()
	for _, size := range []int{0, kmsv2.MaxPlaintext + 1, mib} {
		_, err := p.Encrypt(context.Background(), "", make([]byte, size))
		if kmsv2.Code(err) != codes.InvalidArgument {
			t.Errorf("Encrypt of %d bytes: %v", size, err)
		}
	}
	for _, size := range []int{0, kmsv2.MaxSealed + 1, mib} {
		_, err := p.Seal(context.Background(), testDomain, make([]byte, size))
		if kmsv2.Code(err) != codes.InvalidArgument {
			t.Errorf("Seal of %d bytes: %v", size, err)
		}
	}
}

// What one API wrote does not open through the other, even byte for byte.
func TestDomainsDoNotMix(t *testing.T) {
	p := start(t, setup{ring: oneKey(t)})
	p.status()
	v2 := p.encrypt("seed")
	joined := slices.Concat(v2.Annotations[kmsv2.AnnotationHeader], v2.Ciphertext)
	_, err := p.Open(context.Background(), testDomain, joined)
	wantClass(t, err, envelope.ErrCorrupt)

	env, err := p.Seal(context.Background(), testDomain, []byte("object key"))
	must(t, err)
	header, message, err := envelope.Split(env)
	must(t, err)
	_, err = p.Decrypt(context.Background(), "", &service.DecryptRequest{
		Ciphertext: message, KeyID: v2.KeyID, Annotations: map[string][]byte{kmsv2.AnnotationHeader: header},
	})
	wantClass(t, err, envelope.ErrCorrupt)
}
