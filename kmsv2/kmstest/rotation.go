package kmstest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// rotation is what two rotations showed. The rules about rotation judge the same two,
// since rotating may be slow and cost somebody a key version.
type rotation struct {
	// keyIDs are the key ids of Status before, after the first and after the second.
	keyIDs []string
	// data was encrypted under each of them.
	data []sealed
	// after holds, for each rotation, the key ids that Status gave from the hook's
	// return on, without repetitions.
	after [][]string
	// disagreement is the first Encrypt that did not agree with Status.
	disagreement error
	// failed tells why there is no more to see.
	failed error
}

const (
	// quick is how often a rule looks for the effect of a hook.
	quick = 50 * time.Millisecond
	// calm is how often in a row a new key id has to be seen.
	calm = 50
)

// seen returns what the rotations showed, and makes them on first use.
func (s *subject) seen(ctx context.Context) (*rotation, error) {
	if s.o.Rotate == nil {
		return nil, skipError("there is no Options.Rotate")
	}
	if s.rotated == nil {
		s.rotated = &rotation{}
		s.rotated.failed = s.rotateTwice(ctx, s.rotated)
	}
	return s.rotated, nil
}

// completed is seen for the rules that judge what comes after the key id changed.
func (s *subject) completed(ctx context.Context) (*rotation, error) {
	r, err := s.seen(ctx)
	if err == nil && r.failed != nil {
		err = skipError("the rotations could not be completed, see rotation-key-id")
	}
	return r, err
}

func (s *subject) rotateTwice(ctx context.Context, r *rotation) error {
	if err := s.remember(ctx, r); err != nil {
		return err
	}
	for range 2 {
		if err := s.o.Rotate(ctx); err != nil {
			return fmt.Errorf("Options.Rotate: %w", err)
		}
		if err := s.watch(ctx, r); err != nil {
			return err
		}
		if err := s.remember(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// remember keeps the key id of now and data encrypted under it.
func (s *subject) remember(ctx context.Context, r *rotation) error {
	now, err := s.status(ctx)
	if err != nil {
		return err
	}
	e, err := s.encrypt(ctx, seed())
	if err != nil {
		return err
	}
	r.keyIDs = append(r.keyIDs, now.KeyID)
	r.data = append(r.data, e)
	return nil
}

// watch looks at Status and Encrypt until the key id has changed, and then for a while.
func (s *subject) watch(ctx context.Context, r *rotation) error {
	old := r.keyIDs[len(r.keyIDs)-1]
	var ids []string
	deadline := time.Now().Add(s.o.Settle)
	for changed := 0; changed < calm; {
		now, err := s.status(ctx)
		if err != nil {
			return err
		}
		if len(ids) == 0 || ids[len(ids)-1] != now.KeyID {
			ids = append(ids, now.KeyID)
		}
		if err := s.encryptAgrees(ctx); err != nil && r.disagreement == nil {
			r.disagreement = err
		}
		if changed > 0 || now.KeyID != old {
			changed++
			continue
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("key_id is still %q %s after Options.Rotate", old, s.o.Settle)
		}
		if err := pause(ctx, quick); err != nil {
			return err
		}
	}
	r.after = append(r.after, ids)
	return nil
}

func rotationKeyID(ctx context.Context, s *subject) error {
	r, err := s.seen(ctx)
	if err != nil {
		return err
	}
	return r.failed
}

func rotationOnce(ctx context.Context, s *subject) error {
	r, err := s.completed(ctx)
	if err != nil {
		return err
	}
	for i, ids := range r.after {
		if ids[0] == r.keyIDs[i] {
			ids = ids[1:] // still the old one, before the change was noticed
		}
		if len(ids) > 1 {
			return fmt.Errorf("one rotation changed the key_id from %q to %q in turn: each change makes API servers take new seeds and call their data stale", r.keyIDs[i], ids)
		}
	}
	return nil
}

func rotationKeyIDNew(ctx context.Context, s *subject) error {
	r, err := s.completed(ctx)
	if err != nil {
		return err
	}
	if slices.Contains(r.keyIDs[:2], r.keyIDs[2]) {
		return fmt.Errorf("the second rotation brought back key_id %q: data from its first time is not recognised as stale", r.keyIDs[2])
	}
	return nil
}

func rotationEncryptKeyID(ctx context.Context, s *subject) error {
	r, err := s.completed(ctx)
	if err != nil {
		return err
	}
	return r.disagreement
}

func rotationOldData(ctx context.Context, s *subject) error {
	r, err := s.completed(ctx)
	if err != nil {
		return err
	}
	for age, e := range r.data {
		if err := s.opens(ctx, e); err != nil {
			return fmt.Errorf("data of key_id %q, %d rotations later: %w", e.KeyID, 2-age, err)
		}
	}
	return nil
}

func rotationSwappedKeyID(ctx context.Context, s *subject) error {
	r, err := s.completed(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range r.data[:2] {
		for _, id := range r.keyIDs[:2] {
			if id == e.KeyID {
				continue
			}
			req := e.request()
			req.KeyID = id
			_, err := s.decrypt(ctx, req)
			errs = append(errs, refused(fmt.Sprintf("data of key_id %q under key_id %q", e.KeyID, id), err))
		}
	}
	return errors.Join(errs...)
}
