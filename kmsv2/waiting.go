package kmsv2

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// firstAnswerWait bounds the wait for the first write key when the request has no
// deadline. The API server's own time-out is 3 s (rule 2).
const firstAnswerWait = 10 * time.Second

// waiting is what a request without a write key waits for.
type waiting struct {
	mu      sync.Mutex
	err     error         // why there is none, or nil while nothing has been tried
	changed chan struct{} // closed at the next news
}

func (w *waiting) init() { w.changed = make(chan struct{}) }

// fail notes why there is no write key; nil that there is one.
func (w *waiting) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *waiting) news() (<-chan struct{}, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed, w.err
}

// error is why there is no write key.
func (w *waiting) error() error {
	_, err := w.news()
	if err == nil {
		err = errNothingTried
	}
	return err
}

var errNothingTried error = &envelope.Error{
	Class: envelope.ErrUnreachable, Op: "prepare key", Err: errors.New("no key has been prepared yet"),
	Remedy: "wait for the vault's first answer; in a program of your own, see that Service.Run runs",
}

// await returns the write keys, of which there is a live one. Until the vault has
// answered for the first time it waits, but not for what waiting cannot help: a key
// that is disabled, a permission that is missing.
func (s *Service) await(ctx context.Context) (*writeKeys, error) {
	if keys := s.keys.Load(); keys.live != nil {
		return keys, nil
	}
	wait, cancel := lessThan(ctx)
	defer cancel()
	for {
		changed, err := s.waiting.news()
		if keys := s.keys.Load(); keys.live != nil {
			return keys, nil
		}
		if s.closed.Load() {
			return nil, errServiceClosed
		}
		if err != nil && !mayPass(err) {
			return nil, err
		}
		select {
		case <-changed:
		case <-wait.Done():
			if err := ctx.Err(); errors.Is(err, context.Canceled) {
				return nil, err
			}
			return nil, s.waiting.error()
		}
	}
}

// lessThan leaves the answer time to travel: an error that arrives after the
// deadline is only "deadline exceeded" to the caller, and names no fault.
func lessThan(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithTimeout(ctx, firstAnswerWait)
	}
	left := time.Until(deadline)
	return context.WithTimeout(ctx, left-min(left/10, 200*time.Millisecond))
}

// mayPass reports whether a failure says nothing about the key, so that the next
// attempt may work.
func mayPass(err error) bool {
	return errors.Is(err, envelope.ErrUnreachable) || errors.Is(err, envelope.ErrThrottled)
}
