package envelope

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"
)

const (
	// renewTimeout bounds one attempt to wrap a new DEK, whoever waits for it.
	renewTimeout = 10 * time.Second
	// renewBackoff is the time from a failed renewal to the next attempt.
	renewBackoff = 10 * time.Second
)

// renewal is one attempt to wrap a new DEK. All who need it wait for the same.
type renewal struct {
	done chan struct{}
	err  error // set before done is closed
}

// Prepare makes sure that a DEK is ready and wraps one if there is none, so that
// the first Seal need not wait. It returns at the end of ctx at the latest, with
// [ErrUnreachable]; the wrap may go on without it and serve the next call. With
// a DEK that is due for renewal it starts that and does not wait. Otherwise its
// errors are the KEK's.
func (s *Sealer) Prepare(ctx context.Context) error {
	k := s.current.Load()
	if !k.usable(s.hardLimit) {
		return s.renewNow(ctx)
	}
	if s.due(k) {
		s.renewSoon(k)
	}
	return nil
}

// Resume goes on under a DEK that this installation wrapped earlier, at created,
// instead of wrapping a new one: after a restart, say, while the KEK is expired
// and unwraps only. header is what [SealerOptions].OnNewDEK was given; it must
// come from a place that only this installation writes, since whoever chooses
// the header may know the DEK. The DEK's age counts from created; its messages are
// counted anew, under a fresh sub-key. Errors are those of [OpenHeader].
func (s *Sealer) Resume(ctx context.Context, u Unwrapper, header []byte, created time.Time) error {
	p, err := parseDetached(header)
	if err != nil {
		return err
	}
	dek, keys, err := unwrapHeader(ctx, u, &p)
	if err != nil {
		return err
	}
	clear(dek)
	defer keys.wipe()
	// A date in the future would put the limit of age off.
	if now := s.now(); created.After(now) {
		created = now
	}
	return s.use(p.raw, keys, created)
}

// usable tells whether k, which may be nil, has messages left.
func (k *sealingKey) usable(limit uint64) bool { return k != nil && k.messages.Load() < limit }

// due tells whether a soft limit of k is reached.
func (s *Sealer) due(k *sealingKey) bool {
	if k.messages.Load() >= s.options.MaxMessages || k.bytes.Load() >= s.options.MaxBytes || k.aged.Load() {
		return true
	}
	// Reading the clock takes an eighth of the time of sealing 1 KiB, hence the
	// timer behind aged. It knows nothing of an injected clock.
	return s.options.Now != nil && s.age(k) >= s.options.MaxAge
}

func (s *Sealer) age(k *sealingKey) time.Duration { return s.now().Sub(k.created) }

func (s *Sealer) now() time.Time {
	if s.options.Now != nil {
		return s.options.Now()
	}
	return time.Now()
}

// renewSoon starts a renewal of k, unless somebody is at it, k is no longer in
// use, or the last one failed a moment ago. It never waits: not even for the lock.
func (s *Sealer) renewSoon(k *sealingKey) {
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	if s.renewal == nil && s.current.Load() == k && !s.now().Before(s.retryAt) {
		s.startRenewal()
	}
}

// renewNow waits for a DEK with messages left.
func (s *Sealer) renewNow(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return waitEnded(err)
	}
	r, err := s.joinRenewal()
	if r == nil {
		return err
	}
	select {
	case <-r.done:
		err = r.err
	case <-ctx.Done():
		err = waitEnded(ctx.Err())
	}
	if err != nil && s.current.Load().usable(s.hardLimit) {
		return nil // a DEK was resumed meanwhile
	}
	return err
}

// joinRenewal returns the renewal to wait for: the one under way, or a new one.
// Without any there is nothing to wait for, or an error.
func (s *Sealer) joinRenewal() (*renewal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed()
	}
	if s.renewal != nil {
		return s.renewal, nil
	}
	k := s.current.Load()
	if k.usable(s.hardLimit) {
		return nil, nil
	}
	// Under a spent DEK every Seal comes here, and must not bring down on the KEK
	// what renewSoon spares it.
	if k != nil && s.lastErr != nil && s.now().Before(s.retryAt) {
		return nil, s.lastErr
	}
	s.startRenewal()
	return s.renewal, nil
}

// startRenewal is called with s.mu held. The attempt belongs to no caller, so
// none can end it, and no request's id may pass for its origin.
func (s *Sealer) startRenewal() {
	s.renewal = &renewal{done: make(chan struct{})}
	go s.renew(s.renewal)
}

func (s *Sealer) renew(r *renewal) {
	ctx, cancel := context.WithTimeout(s.ctx, renewTimeout)
	defer cancel()
	r.err = s.newDEK(ctx)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewal = nil
	s.lastErr = r.err
	s.retryAt = time.Time{}
	if r.err != nil {
		s.retryAt = s.now().Add(renewBackoff)
	}
	close(r.done)
}

// newDEK makes a DEK, wraps it and puts it to use.
func (s *Sealer) newDEK(ctx context.Context) error {
	created := s.now()
	dek := make([]byte, DEKSize)
	defer clear(dek)
	rand.Read(dek)
	var dekID [dekIDSize]byte
	rand.Read(dekID[:])

	keys, err := derive(dek, dekID)
	if err != nil {
		return err
	}
	defer keys.wipe()
	header, err := wrapHeader(ctx, dek, dekID, keys, s.wrapper)
	if err != nil {
		return err
	}
	return s.use(header, keys, created)
}

// use makes a DEK the current one, after OnNewDEK has seen it.
func (s *Sealer) use(header []byte, keys *secrets, created time.Time) error {
	k, err := newSealingKey(header, keys, created)
	if err != nil {
		return err
	}
	s.using <- struct{}{}
	defer func() { <-s.using }()
	if s.options.OnNewDEK != nil && s.ctx.Err() == nil {
		o, err := k.openKey(keys)
		if err != nil {
			return err
		}
		s.options.OnNewDEK(o, created)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed()
	}
	s.replace(k)
	return nil
}

// replace makes k, or none, the current key. It is called with s.mu held.
func (s *Sealer) replace(k *sealingKey) {
	if k != nil {
		left := s.options.MaxAge - s.age(k)
		k.aged.Store(left <= 0)
		k.expiry = time.AfterFunc(left, func() { k.aged.Store(true) })
	}
	if old := s.current.Swap(k); old != nil {
		old.expiry.Stop()
	}
}

// waitEnded is the error of a caller whose context ended before there was a DEK.
func waitEnded(err error) error {
	return &Error{Class: ErrUnreachable, Op: "seal", Err: fmt.Errorf("no data-encryption key ready in time: %w", err)}
}
