package kmstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"k8s.io/kms/pkg/service"
)

// memoryRespected can be broken only by a service in this process: an API server with
// the plugin inside goes on using the very bytes that it hands to Encrypt, and a
// plugin that wipes them destroys its seed.
func memoryRespected(ctx context.Context, s *subject) error {
	plaintext := seed()
	given := bytes.Clone(plaintext)
	r, err := call(ctx, s, "Encrypt", func(ctx context.Context) (*service.EncryptResponse, error) {
		return s.svc.Encrypt(ctx, newUID(), given)
	})
	if err != nil {
		return err
	}
	if !bytes.Equal(given, plaintext) {
		return errors.New("Encrypt changed its caller's plaintext")
	}
	e := sealed{plaintext, r}
	kept := e.request()

	req := e.request()
	got, err := s.decrypt(ctx, req)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(req, kept) {
		return errors.New("Decrypt changed its caller's request")
	}
	// What was handed over and what was handed out is the caller's to overwrite.
	for _, b := range [][]byte{given, got, r.Ciphertext, req.Ciphertext} {
		clear(b)
	}
	got, err = s.decrypt(ctx, kept)
	if err != nil || !bytes.Equal(got, plaintext) {
		return errors.Join(errors.New("the plugin shares memory with its caller: data no longer decrypts after the caller cleared its own slices"), err)
	}
	return nil
}

func emptyRequests(ctx context.Context, s *subject) error {
	e, err := s.encrypt(ctx, seed())
	if err != nil {
		return err
	}
	for what, req := range map[string]*service.DecryptRequest{
		"an empty request":                                          {},
		"a request with nothing but a key_id":                       {KeyID: e.KeyID},
		"a request with a key_id and annotations but no ciphertext": {KeyID: e.KeyID, Annotations: e.request().Annotations},
	} {
		if len(e.Ciphertext) == 0 && len(req.Annotations) > 0 {
			continue // this very thing is what the plugin calls an answer
		}
		_, err := s.decrypt(ctx, req)
		if err := refused(what, err); err != nil {
			return err
		}
	}
	// Nothing says what an empty plaintext is. If it is encrypted it must decrypt.
	empty, err := s.encrypt(ctx, nil)
	if err == nil {
		err = s.opens(ctx, empty)
	} else {
		err = refused("Encrypt of nothing", err)
	}
	if err != nil {
		return err
	}
	return s.alive(ctx, "empty requests")
}

func oversizeRequests(ctx context.Context, s *subject) error {
	e, err := s.encrypt(ctx, seed())
	if err != nil {
		return err
	}
	huge := bytes.Repeat(seed(), 1<<20/seedSize)
	beyond := huge
	if _, ok := s.svc.(*Client); ok {
		beyond = bytes.Repeat(huge, 5) // the gRPC library accepts 4 MiB by default
	}
	_, err = s.encrypt(ctx, beyond)
	if err := refused(fmt.Sprintf("a plaintext of %d bytes, which no ciphertext of 1024 bytes holds,", len(beyond)), err); err != nil {
		return err
	}
	for _, c := range []struct {
		what   string
		change func(req *service.DecryptRequest)
	}{
		{fmt.Sprintf("a ciphertext of %d bytes", len(beyond)), func(req *service.DecryptRequest) { req.Ciphertext = beyond }},
		{"a ciphertext followed by 1 MiB", func(req *service.DecryptRequest) { req.Ciphertext = append(req.Ciphertext, huge...) }},
		{"a key_id of 1 MiB", func(req *service.DecryptRequest) { req.KeyID = string(bytes.Repeat([]byte{'k'}, 1<<20)) }},
	} {
		req := e.request()
		c.change(req)
		_, err := s.decrypt(ctx, req)
		if err := refused(c.what, err); err != nil {
			return err
		}
	}
	// Annotations may be remarks, so that an answer is no violation, if it is right.
	crowded := e.request()
	crowded.Annotations = map[string][]byte{"huge.kmstest.example.com": huge}
	for i := range 10_000 {
		crowded.Annotations[fmt.Sprintf("a%d.kmstest.example.com", i)] = nil
	}
	for name, value := range e.Annotations {
		crowded.Annotations[name] = value
	}
	got, err := s.decrypt(ctx, crowded)
	if err == nil && !bytes.Equal(got, e.plaintext) {
		return errors.New("with 10,001 annotations more, Decrypt returned another plaintext")
	}
	if err != nil {
		if err := refused("a request with 10,001 annotations more", err); err != nil {
			return err
		}
	}
	return s.alive(ctx, "oversize requests")
}

func concurrentCalls(ctx context.Context, s *subject) error {
	const callers, rounds = 16, 8
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for range rounds {
				e, err := s.encrypt(ctx, seed())
				if err == nil {
					err = s.opens(ctx, e)
				}
				if err == nil {
					_, err = s.status(ctx)
				}
				if err != nil {
					errs[i] = fmt.Errorf("with %d callers: %w", callers, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// endedCalls makes calls whose callers have gone or go away meanwhile, as API servers do
// with requests of theirs that are cancelled or late.
func endedCalls(ctx context.Context, s *subject) error {
	e, err := s.encrypt(ctx, seed())
	if err != nil {
		return err
	}
	calls := []func(ctx context.Context) error{
		func(ctx context.Context) error { _, err := s.status(ctx); return err },
		func(ctx context.Context) error { _, err := s.encrypt(ctx, seed()); return err },
		func(ctx context.Context) error { _, err := s.decrypt(ctx, e.request()); return err },
	}
	// Each of these may be answered or not; it must return. The delays are spread
	// over the time that one call takes.
	for _, delay := range []time.Duration{0, 50 * time.Microsecond, 200 * time.Microsecond, time.Millisecond, 5 * time.Millisecond} {
		var wg sync.WaitGroup
		errs := make([]error, len(calls))
		for i, makeCall := range calls {
			wg.Go(func() {
				ended, end := context.WithTimeout(ctx, delay)
				defer end()
				if err := makeCall(ended); errors.Is(err, errCrash) {
					errs[i] = fmt.Errorf("given up after %s: %w", delay, err)
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return s.alive(ctx, "calls given up by their callers")
}
