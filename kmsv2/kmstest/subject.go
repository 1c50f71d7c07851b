package kmstest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/kms/pkg/service"
)

// seedSize is what API servers ask a plugin to encrypt: a seed, or an AES-256 key.
const seedSize = 32

// subject is the plugin being judged, seen through calls that cannot hang or panic.
type subject struct {
	svc   service.Service
	o     Options
	notes []string

	unreachable error     // set by the rule of that name
	rotated     *rotation // what two rotations showed, once they have been made
}

func newSubject(svc service.Service, o Options) *subject {
	return &subject{svc: svc, o: o.withDefaults()}
}

// note records something worth telling that is no violation.
func (s *subject) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// sealed is a plaintext and the plugin's answer to it.
type sealed struct {
	plaintext []byte
	*service.EncryptResponse
}

// request asks for the plaintext back. It shares no memory with the answer.
func (e sealed) request() *service.DecryptRequest {
	r := &service.DecryptRequest{Ciphertext: bytes.Clone(e.Ciphertext), KeyID: e.KeyID}
	if e.Annotations != nil {
		r.Annotations = maps.Clone(e.Annotations)
		for name, value := range r.Annotations {
			r.Annotations[name] = bytes.Clone(value)
		}
	}
	return r
}

func (s *subject) status(ctx context.Context) (*service.StatusResponse, error) {
	return call(ctx, s, "Status", func(ctx context.Context) (*service.StatusResponse, error) {
		r, err := s.svc.Status(ctx)
		if err == nil && r == nil {
			err = errNoAnswer
		}
		return r, err
	})
}

func (s *subject) encrypt(ctx context.Context, plaintext []byte) (sealed, error) {
	return s.encryptAs(ctx, newUID(), plaintext)
}

func (s *subject) encryptAs(ctx context.Context, uid string, plaintext []byte) (sealed, error) {
	op := fmt.Sprintf("Encrypt of %d bytes", len(plaintext))
	return call(ctx, s, op, func(ctx context.Context) (sealed, error) {
		r, err := s.svc.Encrypt(ctx, uid, bytes.Clone(plaintext))
		if err == nil && r == nil {
			err = errNoAnswer
		}
		return sealed{plaintext, r}, err
	})
}

func (s *subject) decrypt(ctx context.Context, req *service.DecryptRequest) ([]byte, error) {
	return s.decryptAs(ctx, newUID(), req)
}

func (s *subject) decryptAs(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
	return call(ctx, s, "Decrypt", func(ctx context.Context) ([]byte, error) {
		return s.svc.Decrypt(ctx, uid, req)
	})
}

// opens checks that e decrypts to its plaintext.
func (s *subject) opens(ctx context.Context, e sealed) error {
	return s.opensAs(ctx, newUID(), e)
}

func (s *subject) opensAs(ctx context.Context, uid string, e sealed) error {
	got, err := s.decryptAs(ctx, uid, e.request())
	if err != nil {
		return err
	}
	if !bytes.Equal(got, e.plaintext) {
		return fmt.Errorf("Decrypt answered %d bytes other than the %d that were encrypted", len(got), len(e.plaintext))
	}
	return nil
}

// alive checks that the plugin goes on working after something was done to it.
func (s *subject) alive(ctx context.Context, after string) error {
	_, err := s.status(ctx)
	if err == nil {
		var e sealed
		if e, err = s.encrypt(ctx, seed()); err == nil {
			err = s.opens(ctx, e)
		}
	}
	if err != nil {
		return fmt.Errorf("after %s: %w", after, err)
	}
	return nil
}

// refused checks that err is the plugin's decision: neither consent nor a call that
// never came to an end.
func refused(what string, err error) error {
	switch {
	case err == nil:
		return fmt.Errorf("%s was answered, not refused", what)
	case errors.Is(err, errCrash), errors.Is(err, context.DeadlineExceeded), status.Code(err) == codes.DeadlineExceeded:
		return fmt.Errorf("%s was not refused: %w", what, err)
	}
	return nil
}

var (
	errNoAnswer = errors.New("neither an answer nor an error")
	errCrash    = errors.New("the plugin failed")
)

// call makes one call within the call time-out. A service in this process may panic or
// ignore its context; either becomes an error, so that the other rules are still
// judged.
func call[T any](ctx context.Context, s *subject, op string, f func(context.Context) (T, error)) (T, error) {
	callCtx, cancel := context.WithTimeout(ctx, s.o.CallTimeout)
	defer cancel()
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- answer{err: fmt.Errorf("%w: panic: %v", errCrash, p)}
			}
		}()
		value, err := f(callCtx)
		done <- answer{value, err}
	}()
	// A service that watches its context returns in time; this is for the others.
	hang := time.NewTimer(2 * s.o.CallTimeout)
	defer hang.Stop()
	var a answer
	select {
	case a = <-done:
	case <-hang.C:
		a.err = fmt.Errorf("%w: no return %s after the end of its context", errCrash, s.o.CallTimeout)
	}
	if a.err != nil {
		a.err = fmt.Errorf("%s: %w", op, a.err)
	}
	return a.value, a.err
}

// pause waits between two looks at something that is expected to change.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// seed returns a random plaintext as API servers make them.
func seed() []byte { return random(seedSize) }

func random(size int) []byte {
	b := make([]byte, size)
	rand.Read(b)
	return b
}

// newUID returns a request uid, a text of its own for each call as API servers do.
func newUID() string { return rand.Text() }
