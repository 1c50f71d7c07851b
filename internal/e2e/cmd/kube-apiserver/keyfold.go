package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/keyfold/keyfold/internal/e2e/config"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
	"github.com/keyfold/keyfold/kmsv2"
	"github.com/keyfold/keyfold/rotation"
)

// serve builds the service that the configuration file describes and keeps its
// ring as the file says.
func serve(ctx context.Context, path string) (*kmsv2.Service, error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	file, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	hsm, err := hsmsim.Open(file.Provider.Dir, hsmsim.Options{})
	if err != nil {
		return nil, err
	}
	keys, err := file.Rotation(hsm)
	if err != nil {
		return nil, err
	}
	interval, err := file.Interval()
	if err != nil {
		return nil, err
	}
	ring, err := rotation.New(keys, rotation.Options{ProbeInterval: interval, Logger: log})
	if err != nil {
		return nil, err
	}
	service, err := kmsv2.New(ring, kmsv2.Options{StateDir: file.StateDir, Logger: log})
	if err != nil {
		return nil, err
	}
	go func() {
		if err := service.Run(ctx); err != nil {
			log.Error("the service's background work ended", "err", err)
		}
	}()
	go follow(ctx, path, func(f config.File) error {
		keys, err := f.Rotation(hsm)
		if err != nil {
			return err
		}
		return ring.Reload(keys)
	}, log)
	return service, nil
}

// follow calls apply whenever the file has changed; on an error the old
// configuration stays.
func follow(ctx context.Context, path string, apply func(config.File) error, log *slog.Logger) {
	last, _ := os.ReadFile(path)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, err := os.ReadFile(path)
		if err != nil || bytes.Equal(now, last) {
			continue
		}
		last = now
		file, err := config.Load(path)
		if err == nil {
			err = apply(file)
		}
		if err != nil {
			log.Error("new configuration refused, the old one stays", "file", path, "err", err)
			continue
		}
		log.Info("new configuration in use", "file", path)
	}
}
