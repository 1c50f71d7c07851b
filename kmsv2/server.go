package kmsv2

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	kmsapi "k8s.io/kms/apis/v2"
	"k8s.io/kms/pkg/service"
)

const (
	// maxRequest is larger than any request that makes sense, so that one of 1 MiB
	// is answered with what is wrong with it, and small enough to bound memory.
	maxRequest = 2 << 20
	// maxStreams is per connection. An API server that starts cold decrypts
	// thousands of objects, but a few hundred at a time.
	maxStreams = 1024

	defaultDrainTimeout = 5 * time.Second
	// cutOffTimeout is what requests get to notice that they were cut off.
	cutOffTimeout = 500 * time.Millisecond
)

// ServerOptions tune a [Server]. The zero value is what production wants.
type ServerOptions struct {
	// DrainTimeout is how long requests under way may take when the server stops;
	// 5 s if zero. What then still runs is cut off.
	DrainTimeout time.Duration
	// Logger receives panics; nil discards them.
	Logger *slog.Logger
}

// Server is a gRPC server for KMS v2, and for whatever else is registered before
// Serve is called.
type Server struct {
	grpc   *grpc.Server
	drain  time.Duration
	log    *slog.Logger
	panics atomic.Uint64
}

// NewServer returns a server for svc, which is a [Service] or anybody's own.
func NewServer(svc service.Service, o ServerOptions) *Server {
	if o.DrainTimeout <= 0 {
		o.DrainTimeout = defaultDrainTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{drain: o.DrainTimeout, log: o.Logger}
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxSendMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxStreams),
		// Goroutines with a stack that has grown already: 8 % less latency, measured
		// over a unix socket. Requests beyond their number get one of their own, so none
		// waits. Buffer and window sizes other than the defaults gained nothing.
		grpc.NumStreamWorkers(uint32(runtime.GOMAXPROCS(0))),
		// The peer is on this machine and known by its credentials. Pings cost less
		// than a connection closed under an API server for sending them.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		// Until the HTTP/2 preface only: whoever connects and says nothing goes.
		grpc.ConnectionTimeout(10*time.Second),
		grpc.ChainUnaryInterceptor(s.recover),
	)
	// The adapter of k8s.io/kms is used for its handlers alone: its own server sets
	// no socket mode, checks no peer and does not bound its drain.
	kmsapi.RegisterKeyManagementServiceServer(s.grpc, service.NewGRPCService("", 0, svc))
	return s
}

// Registrar is where other services, such as KMS v1, register before Serve.
func (s *Server) Registrar() grpc.ServiceRegistrar { return s.grpc }

// Panics returns how many requests ended in a panic, which the caller saw as
// Internal.
func (s *Server) Panics() uint64 { return s.panics.Load() }

// Serve answers requests on l until ctx ends. It then accepts nothing more, lets
// the requests under way end, for the drain time-out at most, closes l and returns
// nil. Any other return is the listener's failure. A Server serves once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(l) }()
	select {
	case err := <-served:
		s.grpc.Stop()
		return err
	case <-ctx.Done():
	}
	drained := make(chan struct{})
	go func() {
		s.grpc.GracefulStop() // closes l first
		close(drained)
	}()
	if finished(drained, s.drain) {
		err := <-served
		if errors.Is(err, grpc.ErrServerStopped) {
			err = nil // ctx ended before the server had begun
		}
		return err
	}
	s.log.Warn("requests are still under way after the drain time-out; cutting them off", "timeout", s.drain)
	// Ends their contexts. A handler that does not look at its own cannot be ended, and
	// both kinds of stop wait for it, so neither is waited for here.
	go s.grpc.Stop()
	finished(drained, cutOffTimeout)
	return nil
}

// finished waits for done, for at most d, and tells whether it came.
func finished(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// recover turns a panic into an error of one request. It is an interceptor and so
// guards every service on the socket.
func (s *Server) recover(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.panics.Add(1)
			resp, err = nil, panicked(p)
			s.log.Error("panic while serving a request", "method", info.FullMethod, "err", err, "stack", string(debug.Stack()))
		}
	}()
	return handle(ctx, req)
}
