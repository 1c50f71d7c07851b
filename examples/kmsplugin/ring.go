package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/rotation"
)

// keyring makes the ring's keys out of the configuration's names.
type keyring struct {
	vault   vault
	metrics *metrics
}

// config builds the ring's configuration without reaching for the vault, which
// may be away: a version that is left open is then pinned by the ring, by the
// first wrap. With create, so is the key of keyName made if it is missing.
func (k *keyring) config(s *settings, create bool) (c rotation.Config, err error) {
	if s.Ring == nil {
		c.Current, err = k.key(keySection{Name: s.KeyName}, create)
		return c, err
	}
	c.ActivateAt, c.Force = s.Ring.ActivateAt, s.Ring.Force
	if c.Current, err = k.key(s.Ring.Current, false); err != nil {
		return c, err
	}
	if s.Ring.Previous != nil {
		previous, err := k.key(*s.Ring.Previous, false)
		if err != nil {
			return c, err
		}
		c.Previous = &previous
	}
	for _, r := range s.Ring.Read {
		read, err := k.key(r, false)
		if err != nil {
			return c, err
		}
		c.Read = append(c.Read, read)
	}
	return c, nil
}

// key returns the named key as the ring uses it.
func (k *keyring) key(s keySection, create bool) (rotation.Key, error) {
	kek, err := k.vault.kek(s.Name, string(s.Version))
	if err != nil {
		return rotation.Key{}, err
	}
	if create {
		kek = &createdKEK{
			KEK: kek, turn: make(chan struct{}, 1),
			create: func(ctx context.Context) error { return k.vault.create(ctx, s.Name) },
		}
	}
	return rotation.Key{KEK: measuredKEK{kek, k.metrics}, Epoch: s.Epoch}, nil
}

// admit tries the keys that a new configuration would encrypt under, now and at
// activateAt, and pins the current one to the version that was tried. A key that
// is missing, disabled, expired or out of reach is found here, while the old
// configuration is still in use.
func admit(ctx context.Context, c *rotation.Config, now time.Time) error {
	waits := now.Before(c.ActivateAt)
	if waits {
		if _, err := try(ctx, c.Previous.KEK); err != nil {
			return fmt.Errorf("the previous key would encrypt until activateAt, and does not work: %w", err)
		}
	}
	version, err := try(ctx, c.Current.KEK)
	if waits && errors.Is(err, envelope.ErrNotYetValid) {
		return nil // it becomes valid later, and encrypts later
	}
	if err != nil {
		return fmt.Errorf("the new current key does not work: %w", err)
	}
	c.Current.KEK, err = pin(c.Current.KEK, version)
	return err
}

// try encrypts and decrypts under kek, and returns the version that it used.
func try(ctx context.Context, kek envelope.KEK) (version string, err error) {
	probe := make([]byte, 32) // protects nothing
	rand.Read(probe)
	w, err := kek.Wrap(ctx, probe)
	if err != nil {
		return "", err
	}
	back, err := kek.Unwrap(ctx, w)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(back, probe) {
		return "", errors.New("it does not decrypt what it encrypts")
	}
	id, err := envelope.ParseKeyID(w.KeyID)
	return id.Version, err
}

func pin(kek envelope.KEK, version string) (envelope.KEK, error) {
	p, ok := envelope.As[envelope.Pinner](kek)
	if !ok {
		return kek, nil
	}
	return p.Pin(version)
}

// createdKEK creates its key when the vault first says that there is none, rather
// than at start, when the vault may be away. Once the key has been seen it never
// does so again: a key that disappears was taken away.
type createdKEK struct {
	envelope.KEK
	create func(ctx context.Context) error
	seen   atomic.Bool
	turn   chan struct{} // capacity 1: who holds it may create
}

var (
	_ envelope.Decorator = (*createdKEK)(nil)
	_ envelope.Describer = (*createdKEK)(nil)
)

func (k *createdKEK) Underlying() envelope.KEK { return k.KEK }

func (k *createdKEK) Wrap(ctx context.Context, dek []byte) (w envelope.WrappedKey, err error) {
	err = k.orCreate(ctx, func() error {
		w, err = k.KEK.Wrap(ctx, dek)
		return err
	})
	return w, err
}

// Describe is here because the ring may ask for the attributes before it wraps.
func (k *createdKEK) Describe(ctx context.Context) (info envelope.KeyInfo, err error) {
	d, ok := envelope.As[envelope.Describer](k.KEK)
	if !ok {
		return info, errors.New("this provider does not describe its keys")
	}
	err = k.orCreate(ctx, func() error {
		info, err = d.Describe(ctx)
		return err
	})
	return info, err
}

// orCreate looks again once it is its turn: between being told that there is no
// key and creating one, another call may have created it, and an operator may have
// taken that one away.
func (k *createdKEK) orCreate(ctx context.Context, use func() error) error {
	if k.seen.Load() {
		return use()
	}
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return &envelope.Error{Class: envelope.ErrUnreachable, Op: "create key", Err: ctx.Err()}
	}
	err := use()
	if errors.Is(err, envelope.ErrDeleted) && !k.seen.Load() {
		if err := k.create(ctx); err != nil {
			return err
		}
		err = use()
	}
	if err == nil {
		k.seen.Store(true)
	}
	return err
}
