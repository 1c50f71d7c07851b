package kmsv2

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"runtime"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/kms/pkg/service"
)

// A ServiceFactory makes the service of one KMS v2 provider of an
// EncryptionConfiguration. It has the signature of the variable
// EnvelopeKMSv2ServiceFactory in k8s.io/apiserver/pkg/server/options/encryptionconfig.
type ServiceFactory = func(ctx context.Context, endpoint, providerName string, callTimeout time.Duration) (service.Service, error)

// Factory lets an API server build serve providers in its own process, with no
// plugin and no socket. Providers whose name match accepts are served by svc; all
// others go to next, unchanged:
//
//	encryptionconfig.EnvelopeKMSv2ServiceFactory = kmsv2.Factory(svc,
//		func(name string) bool { return name == "keyfold" },
//		encryptionconfig.EnvelopeKMSv2ServiceFactory)
//
// An EncryptionConfiguration must give such a provider an endpoint all the same,
// which has to look like a unix URL (unix:///unused) and is never opened.
//
// What a caller of the gRPC client can rely on holds here too: a call ends within
// callTimeout, whatever svc does; no slice is shared between caller and svc, even
// after a call that was given up; and a panic inside svc is an error. svc is
// shared by every reload of the configuration and is never closed.
func Factory(svc service.Service, match func(providerName string) bool, next ServiceFactory) ServiceFactory {
	return func(ctx context.Context, endpoint, providerName string, callTimeout time.Duration) (service.Service, error) {
		if !match(providerName) {
			return next(ctx, endpoint, providerName, callTimeout)
		}
		if _, err := parseEndpoint(endpoint); err != nil {
			return nil, err
		}
		return &inProcess{svc: svc, timeout: callTimeout}, nil
	}
}

// inProcess stands where the gRPC client would.
type inProcess struct {
	svc     service.Service
	timeout time.Duration
}

var _ service.Service = (*inProcess)(nil)

func (p *inProcess) Status(ctx context.Context) (*service.StatusResponse, error) {
	return bounded(ctx, p.timeout, func(ctx context.Context) (*service.StatusResponse, error) {
		r, err := p.svc.Status(ctx)
		if err != nil {
			return nil, err
		}
		own := *r
		return &own, nil
	})
}

func (p *inProcess) Encrypt(ctx context.Context, uid string, data []byte) (*service.EncryptResponse, error) {
	data = bytes.Clone(data)
	return bounded(ctx, p.timeout, func(ctx context.Context) (*service.EncryptResponse, error) {
		// Ours, and nobody else's: the last copy of a seed that we made.
		defer clear(data)
		r, err := p.svc.Encrypt(ctx, uid, data)
		if err != nil {
			return nil, err
		}
		return &service.EncryptResponse{
			Ciphertext:  bytes.Clone(r.Ciphertext),
			KeyID:       r.KeyID,
			Annotations: cloneAnnotations(r.Annotations),
		}, nil
	})
}

func (p *inProcess) Decrypt(ctx context.Context, uid string, req *service.DecryptRequest) ([]byte, error) {
	own := &service.DecryptRequest{
		Ciphertext:  bytes.Clone(req.Ciphertext),
		KeyID:       req.KeyID,
		Annotations: cloneAnnotations(req.Annotations),
	}
	return bounded(ctx, p.timeout, func(ctx context.Context) ([]byte, error) {
		plaintext, err := p.svc.Decrypt(ctx, uid, own)
		return bytes.Clone(plaintext), err
	})
}

func cloneAnnotations(a map[string][]byte) map[string][]byte {
	a = maps.Clone(a)
	for k, v := range a {
		a[k] = bytes.Clone(v)
	}
	return a
}

// bounded runs call and returns when it does or when the time is up, whichever is
// first. It needs a goroutine of its own for that: a call that does not watch its
// context would otherwise hold a request of the API server for ever.
func bounded[T any](ctx context.Context, timeout time.Duration, call func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			// Here a panic would end the whole API server, not one request.
			if p := recover(); p != nil {
				r = result{err: panicked(p)}
			}
			done <- r
		}()
		r.value, r.err = call(ctx)
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var zero T
		return zero, toStatus(ctx.Err())
	}
}

// panicked is the error of a call that panicked. A value that is not the runtime's
// own may hold anything, plaintext included, so it is not repeated.
func panicked(p any) error {
	what := fmt.Sprintf("%T", p)
	if e, ok := p.(runtime.Error); ok {
		what = e.Error()
	}
	return status.Error(codes.Internal, "keyfold: panic while serving a request: "+what)
}
