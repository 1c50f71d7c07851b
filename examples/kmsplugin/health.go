package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	livezPath   = "/livez"
	statuszPath = "/statusz"
)

// healthEndpoints answers three different questions.
//
//	/healthz  may an API server rely on it now?  200 or 503 and the reason; for alerts, readiness
//	/livez    would a restart help?              503 only if the socket takes no connection; for liveness
//	/statusz  what is going on?                  JSON: keys, versions, health, data key, cache
//
// They are kept apart because a liveness probe that fails while the vault is
// away kills the one process that could still decrypt from memory.
type healthEndpoints struct {
	healthzPath string
	timeout     time.Duration
	ready       func(ctx context.Context) error
	alive       func(ctx context.Context) error
	status      func() any
}

func (h *healthEndpoints) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+h.healthzPath, h.check(h.ready))
	mux.HandleFunc("GET "+livezPath, h.check(h.alive))
	mux.HandleFunc("GET "+statuszPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.Encode(h.status())
	})
	return mux
}

func (h *healthEndpoints) check(f func(ctx context.Context) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), h.timeout)
		defer cancel()
		if err := f(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

// dialSocket is the liveness check: a connection to the plugin's own socket. It
// fails if the accept loop has died or somebody removed the socket file, which
// only a restart mends. It sends no RPC: a Status that no API server asked for
// would count as one that it has seen.
func dialSocket(ctx context.Context, addr net.Addr) error {
	c, err := new(net.Dialer).DialContext(ctx, addr.Network(), addr.String())
	if err != nil {
		return fmt.Errorf("the socket takes no connection: %w", err)
	}
	return c.Close()
}

// httpServer is a bound address and what is served there.
type httpServer struct {
	net.Listener
	http.Server
}

// listenHTTP binds addr at once, so that a port in use is a failed start and
// not a line in the log.
func listenHTTP(what, addr string, h http.Handler, log *slog.Logger) (*httpServer, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", what, err)
	}
	log.Info("serving "+what, "addr", l.Addr().String())
	return &httpServer{l, http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}, nil
}

// serve returns when ctx ends.
func (s *httpServer) serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { s.Server.Close() })()
	if err := s.Server.Serve(s.Listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
