package kektest

//lint:file-ignore ST1005 Messages begin with the name of the method that they are about.

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/keyfold/keyfold/envelope"
)

// storedDataChecks are about wrapped keys that come from an untrusted store.
func storedDataChecks() []check {
	return []check{
		{name: "foreign-key", run: checkForeignKey},
		{name: "foreign-key-without-a-call", needs: []need{needCalls}, run: checkForeignKeyCalls},
		{name: "foreign-blob", run: checkForeignBlob},
		{name: "unknown-version", run: checkUnknownVersion},
		{name: "wrong-algorithm", run: checkWrongAlgorithm},
		{name: "blob-flips", run: checkBlobFlips},
		{name: "blob-lengths", run: checkBlobLengths},
		{name: "error-text", run: checkErrorText},
	}
}

// foreignKeys returns wrapped keys whose ids are not the subject's.
func foreignKeys(ctx context.Context, s Subject) ([]envelope.WrappedKey, error) {
	_, own, err := wrap(ctx, s.KEK)
	if err != nil {
		return nil, err
	}
	_, foreign, err := wrap(ctx, s.Foreign)
	if err != nil {
		return nil, fmt.Errorf("Foreign: %w", err)
	}
	if own.KeyID == foreign.KeyID {
		return nil, errors.New("KEK and Foreign have one key id for two keys")
	}
	ids := []string{"", " ", "/", "\x00", "https://vault.example/keys/kek/1", strings.Repeat("k", envelope.MaxKeyIDSize)}
	if id, err := envelope.ParseKeyID(own.KeyID); err == nil {
		first := byte('0')
		if id.Family[0] == first {
			first = '1'
		}
		id.Family = string(first) + id.Family[1:]
		ids = append(ids, id.String())
	} else {
		ids = append(ids, own.KeyID+"x")
	}
	list := []envelope.WrappedKey{foreign}
	for _, id := range ids {
		list = append(list, envelope.WrappedKey{KeyID: id, Algorithm: own.Algorithm, Blob: own.Blob})
	}
	return list, nil
}

func checkForeignKey(ctx context.Context, s Subject) error {
	list, err := foreignKeys(ctx, s)
	if err != nil {
		return err
	}
	for _, w := range list {
		if err := refuses(ctx, fmt.Sprintf("key id %.40q", w.KeyID), s.KEK, w, envelope.ErrUnknownKey); err != nil {
			return err
		}
	}
	return nil
}

func checkForeignKeyCalls(ctx context.Context, s Subject) error {
	list, err := foreignKeys(ctx, s)
	if err != nil {
		return err
	}
	for _, w := range list {
		before := s.Calls()
		if _, err := s.KEK.Unwrap(ctx, clone(w)); err == nil {
			return fmt.Errorf("Unwrap of key id %.40q succeeded", w.KeyID)
		}
		if n := s.Calls() - before; n != 0 {
			return fmt.Errorf("Unwrap of key id %.40q made %d calls to the back end, want none", w.KeyID, n)
		}
	}
	return nil
}

func checkForeignBlob(ctx context.Context, s Subject) error {
	_, own, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	_, foreign, err := wrap(ctx, s.Foreign)
	if err != nil {
		return fmt.Errorf("Foreign: %w", err)
	}
	own.Blob = foreign.Blob
	return refuses(ctx, "another key's blob", s.KEK, own, envelope.ErrCorrupt)
}

// checkUnknownVersion: RSA binds no key id, so that a back end that ignores the
// version would open a wrap that claims another one.
func checkUnknownVersion(ctx context.Context, s Subject) error {
	_, w, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	id, err := envelope.ParseKeyID(w.KeyID)
	if err != nil {
		return skip("key id of the form FAMILY/VERSION")
	}
	id.Version = strings.Map(func(r rune) rune {
		if r == '0' {
			return '1'
		}
		return '0'
	}, id.Version)
	w.KeyID = id.String()
	return refuses(ctx, "a version that does not exist", s.KEK, w, envelope.ErrDeleted, envelope.ErrUnknownKey)
}

func checkWrongAlgorithm(ctx context.Context, s Subject) error {
	_, w, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	own := w.Algorithm
	for _, algorithm := range []string{
		"", "none", own + "x", strings.Repeat("a", envelope.MaxAlgorithmSize),
		"A256GCM", "A256KW", "A256CBC", "RSA1_5", "RSA-OAEP", "RSA-OAEP-256",
	} {
		if algorithm == own {
			continue
		}
		w.Algorithm = algorithm
		if err := refuses(ctx, fmt.Sprintf("algorithm %.20q", algorithm), s.KEK, w, envelope.ErrCorrupt); err != nil {
			return err
		}
	}
	return nil
}

// samplePositions returns up to about 80 of n positions, both ends among them:
// each costs an operation of the KEK, and an RSA blob has 512.
func samplePositions(n int) []int {
	var at []int
	for i := range n {
		if n <= 80 || i < 16 || i >= n-16 || i%(n/48+1) == 0 {
			at = append(at, i)
		}
	}
	return at
}

func checkBlobFlips(ctx context.Context, s Subject) error {
	_, w, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	for _, i := range samplePositions(len(w.Blob)) {
		changed := clone(w)
		changed.Blob[i] ^= 1 << (i % 8)
		if err := refuses(ctx, fmt.Sprintf("a blob with byte %d changed", i), s.KEK, changed, envelope.ErrCorrupt); err != nil {
			return err
		}
	}
	return nil
}

func checkBlobLengths(ctx context.Context, s Subject) error {
	_, w, err := wrap(ctx, s.KEK)
	if err != nil {
		return err
	}
	blob := w.Blob
	for _, n := range samplePositions(len(blob)) {
		w.Blob = blob[:n]
		if err := refuses(ctx, fmt.Sprintf("a blob cut from %d to %d bytes", len(blob), n), s.KEK, w, envelope.ErrCorrupt); err != nil {
			return err
		}
	}
	for _, longer := range [][]byte{
		append(bytes.Clone(blob), 0),
		append([]byte{0}, blob...),
		append(bytes.Clone(blob), blob...),
		append(bytes.Clone(blob), make([]byte, envelope.MaxBlobSize-len(blob))...),
	} {
		if len(longer) == len(blob) {
			continue
		}
		w.Blob = longer
		if err := refuses(ctx, fmt.Sprintf("a blob extended from %d to %d bytes", len(blob), len(longer)), s.KEK, w, envelope.ErrCorrupt); err != nil {
			return err
		}
	}
	return nil
}

// checkErrorText provokes Wrap errors, in which a DEK is at hand.
func checkErrorText(ctx context.Context, s Subject) error {
	over, cancel := context.WithCancel(ctx)
	cancel()
	for _, attempt := range []struct {
		what string
		hook Hook
		ctx  context.Context
		size int
	}{
		{what: "with an ended context", ctx: over, size: envelope.DEKSize},
		{what: "of an empty DEK", ctx: ctx, size: 0},
		{what: "of a DEK too large", ctx: ctx, size: 5000},
		{what: "under a disabled key", ctx: ctx, size: envelope.DEKSize, hook: s.Disable},
		{what: "in an outage", ctx: ctx, size: envelope.DEKSize, hook: s.Outage},
	} {
		dek := newDEK(attempt.size)
		err := during(ctx, attempt.hook, func() error {
			_, err := s.KEK.Wrap(attempt.ctx, dek)
			if err != nil && len(dek) > 0 && leaks(err.Error(), dek[:16]) {
				return fmt.Errorf("the error of Wrap %s holds the DEK", attempt.what)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func leaks(text string, secret []byte) bool {
	for _, form := range []string{
		string(secret),
		hex.EncodeToString(secret),
		strings.ToUpper(hex.EncodeToString(secret)),
		base64.StdEncoding.EncodeToString(secret)[:20],
		base64.URLEncoding.EncodeToString(secret)[:20],
		strings.Trim(fmt.Sprint(secret), "[]"),
		strings.Trim(fmt.Sprintf("%q", secret), `"`),
	} {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}
