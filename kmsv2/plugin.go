package kmsv2

import (
	"context"
	"errors"
)

// ListenAndServe is a whole KMS v2 plugin: it listens on endpoint, runs svc and
// serves it until ctx ends, with the defaults of [ListenOptions] and
// [ServerOptions]. It returns nil after an orderly stop.
func ListenAndServe(ctx context.Context, endpoint string, svc *Service) error {
	l, err := Listen(endpoint, ListenOptions{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ran := make(chan error, 1)
	go func() {
		ran <- svc.Run(ctx)
		cancel() // a service that nobody keeps must not be served
	}()
	err = NewServer(svc, ServerOptions{}).Serve(ctx, l)
	cancel()
	return errors.Join(err, <-ran)
}
