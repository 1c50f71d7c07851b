package kmstest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

func encryptKeyID(ctx context.Context, s *subject) error {
	for range looks {
		if err := s.encryptAgrees(ctx); err != nil {
			return err
		}
	}
	return nil
}

// encryptAgrees makes a Status and an Encrypt and compares key ids. A key that changed
// between the two calls is no violation, and then the next Status agrees.
func (s *subject) encryptAgrees(ctx context.Context) error {
	before, err := s.status(ctx)
	if err != nil {
		return err
	}
	e, err := s.encrypt(ctx, seed())
	if err != nil || e.KeyID == before.KeyID {
		return err
	}
	after, err := s.status(ctx)
	if err != nil || (e.KeyID == after.KeyID && after.KeyID != before.KeyID) {
		return err
	}
	return fmt.Errorf("Encrypt answered key_id %q while Status says %q: API servers throw the answer away", e.KeyID, after.KeyID)
}

// seeds are plaintexts as API servers send them, and such as expose a plugin that
// treats some byte as padding or as an end.
func seeds() [][]byte {
	all := [][]byte{make([]byte, seedSize), bytes.Repeat([]byte{0xff}, seedSize), bytes.Repeat([]byte{seedSize}, seedSize)}
	for range looks {
		all = append(all, seed())
	}
	return all
}

// eachAnswer shows look the answers of Encrypt to a number of seeds.
func (s *subject) eachAnswer(ctx context.Context, look func(e sealed) error) error {
	for _, plaintext := range seeds() {
		e, err := s.encrypt(ctx, plaintext)
		if err != nil {
			return err
		}
		if err := look(e); err != nil {
			return err
		}
	}
	return nil
}

func ciphertextSize(ctx context.Context, s *subject) error {
	return s.eachAnswer(ctx, func(e sealed) error {
		if n := len(e.Ciphertext); n == 0 || n > 1024 {
			return fmt.Errorf("ciphertext of %d bytes, not 1 to 1024", n)
		}
		return nil
	})
}

func annotationsSize(ctx context.Context, s *subject) error {
	const limit = 32 * 1024
	return s.eachAnswer(ctx, func(e sealed) error {
		size := 0
		for name, value := range e.Annotations {
			size += len(name) + len(value)
		}
		if size > limit {
			return fmt.Errorf("annotations of %d bytes, more than %d", size, limit)
		}
		return nil
	})
}

// domainName is what API servers accept: RFC 1123 labels, at least two, and perhaps a
// final dot.
var domainName = func() *regexp.Regexp {
	const label = `[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`
	return regexp.MustCompile(`^` + label + `(\.` + label + `)+\.?$`)
}()

func annotationNames(ctx context.Context, s *subject) error {
	return s.eachAnswer(ctx, func(e sealed) error {
		for name := range e.Annotations {
			if !domainName.MatchString(name) || len(strings.TrimSuffix(name, ".")) > 253 {
				return fmt.Errorf("annotation %q is not named by a lower-case domain name of at least two labels, such as version.kms.example.com", name)
			}
		}
		return nil
	})
}

func plaintextHidden(ctx context.Context, s *subject) error {
	for range looks {
		e, err := s.encrypt(ctx, seed())
		if err != nil {
			return err
		}
		public := map[string][]byte{"the ciphertext": e.Ciphertext, "the key_id": []byte(e.KeyID)}
		for name, value := range e.Annotations {
			public["annotation "+name] = value
		}
		for where, value := range public {
			for how, text := range map[string]string{
				"as it is":  string(e.plaintext),
				"in hex":    hex.EncodeToString(e.plaintext),
				"in base64": base64.RawStdEncoding.EncodeToString(e.plaintext),
			} {
				if bytes.Contains(value, []byte(text)) {
					return fmt.Errorf("the plaintext stands in %s %s", where, how)
				}
			}
		}
	}
	return nil
}

func answersDistinct(ctx context.Context, s *subject) error {
	// Seeds that share nothing, and seeds that differ from the first in one bit.
	plaintexts := seeds()
	base := seed()
	plaintexts = append(plaintexts, base)
	for i := range base {
		near := bytes.Clone(base)
		near[i] ^= 1
		plaintexts = append(plaintexts, near)
	}
	seen := map[string]bool{}
	for _, plaintext := range plaintexts {
		e, err := s.encrypt(ctx, plaintext)
		if err != nil {
			return err
		}
		id := e.identity()
		if seen[id] {
			return fmt.Errorf("two plaintexts share ciphertext, key_id and annotations: an API server would mix up their keys")
		}
		seen[id] = true
	}
	again, err := s.encrypt(ctx, base)
	if err == nil && seen[again.identity()] {
		s.note("the same plaintext twice gives the same answer: allowed, though it tells a reader of etcd which seeds are equal")
	}
	return err
}

// identity is what API servers cache a key by: ciphertext, key_id and annotations.
func (e sealed) identity() string {
	id := fmt.Sprintf("%q %q", e.Ciphertext, e.KeyID)
	for _, name := range slices.Sorted(maps.Keys(e.Annotations)) {
		id += fmt.Sprintf(" %q=%q", name, e.Annotations[name])
	}
	return id
}
