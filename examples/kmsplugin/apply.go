package main

import (
	"context"
	"errors"
	"reflect"
	"time"
)

// admitTimeout bounds the trial of new keys.
const admitTimeout = 10 * time.Second

// apply makes next the configuration in use. Everything is checked before anything
// changes, so an error leaves the old one whole. The keys are taken up anew if
// their part has changed or if an operator asks (SIGHUP): an unrelated edit must
// not move a key without a version to its latest.
func (p *plugin) apply(ctx context.Context, next settings, asked bool) error {
	if !reflect.DeepEqual(next.Provider, p.settings.Provider) {
		return errors.New("another provider, or another setting of it, needs a restart")
	}
	keys := asked || next.KeyName != p.settings.KeyName || !reflect.DeepEqual(next.Ring, p.settings.Ring)
	if keys {
		if err := p.reloadRing(ctx, &next); err != nil {
			return err
		}
	}
	p.level.Set(levelOf(next.Verbosity))
	if waiting := p.needRestart(&next); len(waiting) > 0 {
		p.log.Warn("these settings changed and take effect at the next start", "settings", waiting)
	}
	p.log.Info("new configuration in use", "keysReloaded", keys, "writer", p.ring.Writer().KeyID, "verbosity", next.Verbosity)
	p.settings.KeyName, p.settings.Ring, p.settings.Verbosity = next.KeyName, next.Ring, next.Verbosity
	p.settings.digest = next.digest
	return nil
}

func (p *plugin) reloadRing(ctx context.Context, next *settings) error {
	// Only a start creates a key: here, one in use that is missing was taken away, and
	// of a new name nobody knows yet whether the ring accepts it.
	c, err := p.keyring.config(next, false)
	if err != nil {
		return err
	}
	// A current key that stays needs no trial: it must be possible to add a read
	// key while the current one is expired or its vault is away.
	if !p.keepsCurrent(next) {
		ctx, cancel := context.WithTimeout(ctx, admitTimeout)
		defer cancel()
		if err := admit(ctx, &c, time.Now()); err != nil {
			return err
		}
	}
	return p.ring.Reload(c)
}

// keepsCurrent reports whether the very key that encrypts now goes on doing so.
func (p *plugin) keepsCurrent(next *settings) bool {
	used, r := p.settings.Ring, next.Ring
	return used != nil && r != nil && r.Current == used.Current && r.Current.Version != "" &&
		r.ActivateAt.Equal(used.ActivateAt) && reflect.DeepEqual(r.Previous, used.Previous)
}

// needRestart names the settings that differ from those in use and that only a
// start reads.
func (p *plugin) needRestart(next *settings) (names []string) {
	used := &p.settings
	for _, s := range []struct {
		name      string
		used, new any
	}{
		{"listenAddr", used.ListenAddr, next.ListenAddr},
		{"socketGroup", used.SocketGroup, next.SocketGroup},
		{"allowUIDs", used.AllowUIDs, next.AllowUIDs},
		{"stateDir", used.StateDir, next.StateDir},
		{"outageGrace", used.OutageGrace, next.OutageGrace},
		{"probeInterval", used.ProbeInterval, next.ProbeInterval},
		{"healthz", used.Healthz, next.Healthz},
		{"metricsAddr", used.MetricsAddr, next.MetricsAddr},
		{"logFormat", used.LogFormat, next.LogFormat},
	} {
		if !reflect.DeepEqual(s.used, s.new) {
			names = append(names, s.name)
		}
	}
	return names
}
