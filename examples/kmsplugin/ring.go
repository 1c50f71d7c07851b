package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/rotation"
)

// keyring makes the ring's keys out of the configuration's names.
type keyring struct {
	vault   vault
	metrics *metrics
}

// kek returns the named key as the ring uses it.
func (k *keyring) kek(s keySection, create bool) (envelope.KEK, error) {
	kek, err := k.vault.kek(s.Name, string(s.Version))
	if err != nil {
		return nil, err
	}
	if create {
		kek = &createdKEK{KEK: kek, create: func(ctx context.Context) error { return k.vault.ensure(ctx, s.Name) }}
	}
	return measuredKEK{kek, k.metrics}, nil
}

// config builds the ring's configuration without reaching for the vault, which
// may be away: a version that is left open is then pinned by the ring, by the
// first wrap.
func (k *keyring) config(s *settings) (rotation.Config, error) {
	if s.Ring == nil {
		current, err := k.kek(keySection{Name: s.KeyName}, true)
		return rotation.Config{Current: rotation.Key{KEK: current}}, err
	}
	key := func(s keySection) (rotation.Key, error) {
		kek, err := k.kek(s, false)
		return rotation.Key{KEK: kek, Epoch: s.Epoch}, err
	}
	c := rotation.Config{ActivateAt: s.Ring.ActivateAt, Force: s.Ring.Force}
	var err error
	if c.Current, err = key(s.Ring.Current); err != nil {
		return c, err
	}
	if s.Ring.Previous != nil {
		previous, err := key(*s.Ring.Previous)
		if err != nil {
			return c, err
		}
		c.Previous = &previous
	}
	for _, r := range s.Ring.Read {
		read, err := key(r)
		if err != nil {
			return c, err
		}
		c.Read = append(c.Read, read)
	}
	return c, nil
}

// admit tries the key that a new configuration would encrypt under, and pins it
// to the version that was tried. A key that is missing, disabled, expired or out
// of reach is found here, while the old one is still in use.
func (k *keyring) admit(ctx context.Context, c *rotation.Config, now time.Time) error {
	probe := make([]byte, 32)
	rand.Read(probe)
	w, err := c.Current.KEK.Wrap(ctx, probe)
	if errors.Is(err, envelope.ErrNotYetValid) && now.Before(c.ActivateAt) {
		return nil // it becomes valid later, and encrypts later
	}
	if err != nil {
		return fmt.Errorf("the new current key does not encrypt: %w", err)
	}
	back, err := c.Current.KEK.Unwrap(ctx, w)
	if err != nil {
		return fmt.Errorf("the new current key does not decrypt: %w", err)
	}
	if !bytes.Equal(back, probe) {
		return errors.New("the new current key does not decrypt what it encrypts")
	}
	id, err := envelope.ParseKeyID(w.KeyID)
	if err != nil {
		return err
	}
	p, ok := envelope.As[envelope.Pinner](c.Current.KEK)
	if !ok {
		return nil
	}
	c.Current.KEK, err = p.Pin(id.Version)
	return err
}

// createdKEK creates its key before the first wrap, rather than at start: then
// the vault may be away.
type createdKEK struct {
	envelope.KEK
	create func(ctx context.Context) error

	mu      sync.Mutex
	created bool
}

var _ envelope.Decorator = (*createdKEK)(nil)

func (k *createdKEK) Underlying() envelope.KEK { return k.KEK }

func (k *createdKEK) Wrap(ctx context.Context, dek []byte) (envelope.WrappedKey, error) {
	if err := k.ensure(ctx); err != nil {
		return envelope.WrappedKey{}, err
	}
	return k.KEK.Wrap(ctx, dek)
}

func (k *createdKEK) ensure(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.created {
		return nil
	}
	err := k.create(ctx)
	k.created = err == nil
	return err
}
