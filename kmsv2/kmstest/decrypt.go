package kmstest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/kms/pkg/service"
)

func roundTrip(ctx context.Context, s *subject) error {
	plaintexts := seeds()
	for _, size := range []int{1, 16, 24, 33, 64} {
		plaintexts = append(plaintexts, random(size))
	}
	var all []sealed
	for _, plaintext := range plaintexts {
		e, err := s.encrypt(ctx, plaintext)
		if err != nil {
			return err
		}
		all = append(all, e)
	}
	// Later than others were encrypted, in another order, and more than once.
	slices.Reverse(all)
	for _, e := range append(all, all...) {
		if err := s.opens(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func uidIrrelevant(ctx context.Context, s *subject) error {
	const uid = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
	uids := []string{uid, "", strings.Repeat("u", 1024), "a uid\nwith \x00 and \"quotes\""}
	for _, uid := range uids {
		for range 2 {
			e, err := s.encryptAs(ctx, uid, seed())
			if err != nil {
				return fmt.Errorf("uid %.40q: %w", uid, err)
			}
			for _, other := range uids {
				if err := s.opensAs(ctx, other, e); err != nil {
					return fmt.Errorf("encrypted with uid %.40q, decrypted with %.40q: %w", uid, other, err)
				}
			}
		}
	}
	return nil
}

func decryptUnknownKeyID(ctx context.Context, s *subject) error {
	e, err := s.encrypt(ctx, seed())
	if err != nil {
		return err
	}
	id := []byte(e.KeyID)
	altered := bytes.Clone(id)
	for i := range altered {
		altered[i] = 'x'
	}
	for _, unknown := range []string{
		"",
		e.KeyID + "x",
		"x" + e.KeyID,
		string(id[:len(id)-min(1, len(id))]),
		string(altered),
		"00000000-0000-0000-0000-000000000000",
		strings.Repeat("k", 1024),
	} {
		if unknown == e.KeyID {
			continue
		}
		req := e.request()
		req.KeyID = unknown
		_, err := s.decrypt(ctx, req)
		if err := refused(fmt.Sprintf("key_id %.80q, which is not %.80q,", unknown, e.KeyID), err); err != nil {
			return err
		}
	}
	return s.opens(ctx, e)
}

func decryptChangedCiphertext(ctx context.Context, s *subject) error {
	e, err := s.encrypt(ctx, seed())
	if err != nil {
		return err
	}
	other, err := s.encrypt(ctx, seed())
	if err != nil {
		return err
	}
	type change struct {
		what       string
		ciphertext []byte
	}
	changes := []change{
		{"a ciphertext with a byte more in front", append([]byte{0}, e.Ciphertext...)},
		{"a ciphertext with a byte more at the end", append(bytes.Clone(e.Ciphertext), 0)},
		{"two ciphertexts in one", append(bytes.Clone(e.Ciphertext), other.Ciphertext...)},
		{"a ciphertext of random bytes", random(max(1, len(e.Ciphertext)))},
	}
	for _, n := range spread(len(e.Ciphertext)) {
		flipped := bytes.Clone(e.Ciphertext)
		flipped[n] ^= 1
		changes = append(changes,
			change{fmt.Sprintf("a ciphertext cut to %d bytes", n), e.Ciphertext[:n]},
			change{fmt.Sprintf("a ciphertext with a bit changed in byte %d", n), flipped})
	}
	for _, c := range changes {
		if bytes.Equal(c.ciphertext, e.Ciphertext) {
			continue // an empty one, twice
		}
		req := e.request()
		req.Ciphertext = bytes.Clone(c.ciphertext)
		_, err := s.decrypt(ctx, req)
		if err := refused(c.what, err); err != nil {
			return err
		}
	}
	return s.opens(ctx, e)
}

// decryptChangedAnnotations is lenient where the contract is: an annotation may be a
// mere remark, and then changing it has no effect.
func decryptChangedAnnotations(ctx context.Context, s *subject) error {
	e, err := s.encrypt(ctx, seed())
	if err != nil {
		return err
	}
	other, err := s.encrypt(ctx, seed())
	if err != nil {
		return err
	}
	type change struct {
		what   string
		change func(req *service.DecryptRequest)
	}
	changes := []change{
		{"no annotations", func(req *service.DecryptRequest) { req.Annotations = nil }},
		{"the annotations of other data", func(req *service.DecryptRequest) { req.Annotations = other.request().Annotations }},
		{"an annotation more", func(req *service.DecryptRequest) {
			if req.Annotations == nil {
				req.Annotations = map[string][]byte{}
			}
			req.Annotations["more.kmstest.example.com"] = []byte("more")
		}},
	}
	for name, value := range e.Annotations {
		changes = append(changes,
			change{"no " + name, func(req *service.DecryptRequest) { delete(req.Annotations, name) }},
			change{"an empty " + name, func(req *service.DecryptRequest) { req.Annotations[name] = nil }})
		for _, n := range spread(len(value)) {
			changes = append(changes,
				change{fmt.Sprintf("%s cut to %d bytes", name, n), func(req *service.DecryptRequest) {
					req.Annotations[name] = req.Annotations[name][:n]
				}},
				change{fmt.Sprintf("a bit changed in byte %d of %s", n, name), func(req *service.DecryptRequest) {
					req.Annotations[name][n] ^= 1
				}})
		}
	}
	for _, c := range changes {
		req := e.request()
		c.change(req)
		got, err := s.decrypt(ctx, req)
		if err == nil && !bytes.Equal(got, e.plaintext) {
			return fmt.Errorf("with %s, Decrypt returned another plaintext", c.what)
		}
		if err != nil {
			if err := refused("a request with "+c.what, err); err != nil {
				return err
			}
		}
	}
	return s.opens(ctx, e)
}

// spread returns up to 64 indices of a slice of n elements, first and last included.
func spread(n int) []int {
	const most = 64
	if n <= most {
		all := make([]int, n)
		for i := range all {
			all[i] = i
		}
		return all
	}
	var some []int
	for i := range most {
		some = append(some, i*(n-1)/(most-1))
	}
	return some
}
