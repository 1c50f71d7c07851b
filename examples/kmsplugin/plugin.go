package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keyfold/keyfold/kmsv2"
	"github.com/keyfold/keyfold/kmsv2/v1beta1"
	"github.com/keyfold/keyfold/rotation"
)

// plugin is everything put together. Nothing in newPlugin reaches for a key, so
// that the socket is served at once even while the vault is away.
type plugin struct {
	cmd      *commandLine
	settings settings // in use; after the start, apply alone touches it
	log      *slog.Logger
	level    *slog.LevelVar
	metrics  *metrics
	refused  atomic.Pointer[string] // why the file as it is now is not in use; nil if it is

	vault   vault
	keyring *keyring
	ring    *rotation.Ring
	service *kmsv2.Service
}

func newPlugin(cmd *commandLine, s settings, log *slog.Logger, level *slog.LevelVar) (*plugin, error) {
	p := &plugin{cmd: cmd, settings: s, log: log, level: level, metrics: newMetrics()}
	var err error
	if p.vault, err = s.Provider.chosen().open(log); err != nil {
		return nil, err
	}
	p.keyring = &keyring{p.vault, p.metrics}
	keys, err := p.keyring.config(&s, true)
	if err != nil {
		return nil, err
	}
	p.ring, err = rotation.New(keys, rotation.Options{ProbeInterval: time.Duration(s.ProbeInterval), Logger: log})
	if err != nil {
		return nil, err
	}
	p.service, err = kmsv2.New(p.ring, kmsv2.Options{
		StateDir:    s.StateDir,
		OutageGrace: time.Duration(s.OutageGrace),
		Logger:      log,
		Observer:    p.metrics,
	})
	if err != nil {
		return nil, err
	}
	p.metrics.collect(p.service)
	return p, nil
}

var errEndedByItself = errors.New("a part of the plugin ended by itself")

// run serves until ctx ends, and then finishes the requests under way.
func (p *plugin) run(ctx context.Context, hup <-chan os.Signal) error {
	defer p.vault.Close()
	defer p.service.Close()
	s := &p.settings
	socket, err := kmsv2.Listen(s.ListenAddr, kmsv2.ListenOptions{
		Group: s.SocketGroup, AllowUIDs: s.AllowUIDs, Logger: p.log,
	})
	if err != nil {
		return err
	}
	defer socket.Close()
	endpoints, err := p.listenHTTP(socket.Addr())
	if err != nil {
		return err
	}
	server := kmsv2.NewServer(p.service, kmsv2.ServerOptions{Logger: p.log})
	v1beta1.Register(server, p.service)

	// What the requests need outlives them: it ends after the drain. If it ends by
	// itself, everything does.
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	var group errgroup.Group
	run := func(f func(ctx context.Context) error) {
		group.Go(func() error {
			defer stopServing()
			err := f(background)
			if background.Err() != nil {
				return nil // it was told to end
			}
			return cmp.Or(err, errEndedByItself)
		})
	}
	run(p.service.Run)
	for _, e := range endpoints {
		run(e.serve)
	}
	p.log.Info("serving KMS v2 and v1", "endpoint", s.ListenAddr)
	if s.openVersion() {
		p.log.Info("the configuration names no version: the key is pinned to its latest until SIGHUP or the next start")
	}
	// From here on the settings are the reloader's.
	reload := &reloader{plugin: p, hup: hup}
	group.Go(func() error { reload.run(serving); return nil })
	err = server.Serve(serving, socket)
	stopBackground()
	return errors.Join(err, group.Wait())
}

// listenHTTP opens the health and metrics addresses that are configured. socket is
// whose liveness is asked for.
func (p *plugin) listenHTTP(socket net.Addr) (endpoints []*httpServer, err error) {
	s := &p.settings
	if s.Healthz.Port != 0 {
		health := healthEndpoints{
			healthzPath: s.Healthz.Path,
			timeout:     time.Duration(s.Healthz.Timeout),
			ready:       p.service.Healthz,
			alive:       func(ctx context.Context) error { return dialSocket(ctx, socket) },
			status:      func() any { return p.status() },
		}
		e, err := listenHTTP("health", net.JoinHostPort(s.Healthz.Host, strconv.Itoa(s.Healthz.Port)), health.handler(), p.log)
		if err != nil {
			return nil, err
		}
		endpoints = append(endpoints, e)
	}
	if s.MetricsAddr != "" {
		e, err := listenHTTP("metrics", s.MetricsAddr, p.metrics.handler(), p.log)
		if err != nil {
			return nil, err
		}
		endpoints = append(endpoints, e)
	}
	return endpoints, nil
}
