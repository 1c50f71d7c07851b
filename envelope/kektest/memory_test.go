package kektest_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/envelope/kektest"
)

// vault is a key in memory behind a pretended network, with every state that the
// suite asks for.
type vault struct {
	family string

	mu       sync.Mutex
	versions []memVersion
	all      error // class that every operation answers
	wraps    error // class that new wraps answer
	stalled  bool
	calls    int
}

type memVersion struct {
	id   envelope.KeyID
	aead cipher.AEAD
}

const memAlgorithm = "MEM-A256GCM"

func newVault(name string) *vault {
	v := &vault{family: envelope.Family("memory", "test", name)}
	v.rotate()
	return v
}

func (v *vault) rotate() {
	key, version := make([]byte, 32), make([]byte, 16)
	rand.Read(key)
	rand.Read(version)
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.versions = append(v.versions, memVersion{envelope.KeyID{Family: v.family, Version: hex.EncodeToString(version)}, aead})
}

// call is one call over the pretended network; f runs under the lock.
func (v *vault) call(ctx context.Context, wraps bool, f func() error) error {
	v.mu.Lock()
	v.calls++
	stalled := v.stalled
	v.mu.Unlock()
	if stalled {
		select {
		case <-ctx.Done():
		case <-time.After(time.Hour):
		}
	}
	if ctx.Err() != nil {
		return &envelope.Error{Class: envelope.ErrUnreachable, Op: "call", Err: ctx.Err()}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.all != nil {
		return &envelope.Error{Class: v.all, Op: "call"}
	}
	if wraps && v.wraps != nil {
		return &envelope.Error{Class: v.wraps, Op: "wrap"}
	}
	return f()
}

// version returns the version of that name, or the latest for "".
func (v *vault) version(name string) (memVersion, error) {
	for _, mv := range v.versions {
		if mv.id.Version == name {
			return mv, nil
		}
	}
	if name == "" {
		return v.versions[len(v.versions)-1], nil
	}
	return memVersion{}, &envelope.Error{Class: envelope.ErrDeleted, Op: "find version"}
}

// memKEK is the correct KEK of a vault, versionless unless version is set.
type memKEK struct {
	*vault
	pinned string
}

func (k memKEK) Wrap(ctx context.Context, dek []byte) (w envelope.WrappedKey, err error) {
	if len(dek) != envelope.DEKSize {
		return w, &envelope.Error{Class: envelope.ErrInvalid, Op: "wrap"}
	}
	err = k.call(ctx, true, func() error {
		mv, err := k.version(k.pinned)
		if err == nil {
			w = envelope.WrappedKey{KeyID: mv.id.String(), Algorithm: memAlgorithm, Blob: mv.aead.Seal(nil, nil, dek, nil)}
		}
		return err
	})
	return w, err
}

func (k memKEK) Unwrap(ctx context.Context, w envelope.WrappedKey) (dek []byte, err error) {
	id, err := envelope.ParseKeyID(w.KeyID)
	if err != nil {
		return nil, err
	}
	if id.Family != k.family {
		return nil, &envelope.Error{Class: envelope.ErrUnknownKey, Op: "unwrap"}
	}
	if w.Algorithm != memAlgorithm {
		return nil, &envelope.Error{Class: envelope.ErrCorrupt, Op: "unwrap"}
	}
	err = k.call(ctx, false, func() error {
		mv, err := k.version(id.Version)
		if err != nil {
			return err
		}
		if dek, err = mv.aead.Open(nil, nil, w.Blob, nil); err != nil {
			return &envelope.Error{Class: envelope.ErrCorrupt, Op: "unwrap"}
		}
		return nil
	})
	return dek, err
}

func (k memKEK) KeyFamily() string { return k.family }

func (k memKEK) Describe(ctx context.Context) (info envelope.KeyInfo, err error) {
	err = k.call(ctx, false, func() error {
		mv, err := k.version(k.pinned)
		if err == nil {
			info = mv.info()
		}
		return err
	})
	return info, err
}

func (k memKEK) Versions(ctx context.Context) (list []envelope.KeyInfo, err error) {
	err = k.call(ctx, false, func() error {
		for _, mv := range k.versions {
			list = append(list, mv.info())
		}
		return nil
	})
	return list, err
}

func (mv memVersion) info() envelope.KeyInfo {
	return envelope.KeyInfo{ID: mv.id.String(), Name: "memory", Version: mv.id.Version, Algorithm: memAlgorithm, Enabled: true}
}

func (k memKEK) Probe(ctx context.Context) error {
	return k.call(ctx, true, func() error { return nil })
}

func (k memKEK) Pin(version string) (envelope.KEK, error) {
	if len(version) != 32 {
		return nil, &envelope.Error{Class: envelope.ErrInvalid, Op: "pin"}
	}
	return memPinned{memKEK{k.vault, version}}, nil
}

// memPinned can tell its key id.
type memPinned struct{ memKEK }

func (k memPinned) KeyID() string {
	return envelope.KeyID{Family: k.family, Version: k.pinned}.String()
}

// subject makes a subject of k, which has v inside, with every hook.
func (v *vault) subject(k envelope.KEK) kektest.Subject {
	set := func(where *error, class error) kektest.Hook {
		return func(context.Context) (func() error, error) {
			v.mu.Lock()
			defer v.mu.Unlock()
			*where = class
			return func() error {
				v.mu.Lock()
				defer v.mu.Unlock()
				*where = nil
				return nil
			}, nil
		}
	}
	return kektest.Subject{
		KEK:         k,
		Foreign:     memKEK{vault: newVault("foreign")},
		Disable:     set(&v.all, envelope.ErrDisabled),
		Expire:      set(&v.wraps, envelope.ErrExpired),
		NotYetValid: set(&v.wraps, envelope.ErrNotYetValid),
		Delete:      set(&v.all, envelope.ErrDeleted),
		Forbid:      set(&v.all, envelope.ErrForbidden),
		Throttle:    set(&v.all, envelope.ErrThrottled),
		Outage:      set(&v.all, envelope.ErrUnreachable),
		Stall: func(context.Context) (func() error, error) {
			v.setStalled(true)
			return func() error { v.setStalled(false); return nil }, nil
		},
		Rotate: func(context.Context) error { v.rotate(); return nil },
		Calls: func() int {
			v.mu.Lock()
			defer v.mu.Unlock()
			return v.calls
		},
	}
}

func (v *vault) setStalled(on bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stalled = on
}

// faulty is a KEK with one mistake: what is set replaces the correct method, which
// it gets as its last argument.
type faulty struct {
	memKEK
	wrap     func(ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error)
	unwrap   func(ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error)
	describe func(right envelope.KeyInfo) envelope.KeyInfo
	versions func(right []envelope.KeyInfo) []envelope.KeyInfo
	probe    func(right error) error
	pin      func(version string, right envelope.KEK, err error) (envelope.KEK, error)
}

type (
	wrapFunc   = func(context.Context, []byte) (envelope.WrappedKey, error)
	unwrapFunc = func(context.Context, envelope.WrappedKey) ([]byte, error)
)

func (f faulty) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	if f.wrap == nil {
		return f.memKEK.Wrap(ctx, dek)
	}
	return f.wrap(ctx, dek, f.memKEK.Wrap)
}

func (f faulty) Unwrap(ctx context.Context, w envelope.WrappedKey) ([]byte, error) {
	if f.unwrap == nil {
		return f.memKEK.Unwrap(ctx, w)
	}
	return f.unwrap(ctx, w, f.memKEK.Unwrap)
}

func (f faulty) Describe(ctx context.Context) (envelope.KeyInfo, error) {
	info, err := f.memKEK.Describe(ctx)
	if f.describe != nil {
		info = f.describe(info)
	}
	return info, err
}

func (f faulty) Versions(ctx context.Context) ([]envelope.KeyInfo, error) {
	list, err := f.memKEK.Versions(ctx)
	if f.versions != nil {
		list = f.versions(list)
	}
	return list, err
}

func (f faulty) Probe(ctx context.Context) error {
	err := f.memKEK.Probe(ctx)
	if f.probe != nil {
		err = f.probe(err)
	}
	return err
}

func (f faulty) Pin(version string) (envelope.KEK, error) {
	k, err := f.memKEK.Pin(version)
	if f.pin != nil {
		return f.pin(version, k, err)
	}
	return k, err
}

// reclassed returns err as another class, if it is of class from.
func reclassed(err, from, to error) error {
	if errors.Is(err, from) {
		return &envelope.Error{Class: to, Op: "reclassed"}
	}
	return err
}

var errUnclassified = fmt.Errorf("something went wrong at %v", time.Time{})
