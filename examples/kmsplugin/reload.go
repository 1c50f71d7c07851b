package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settleTime is how long the folder must be quiet before the file is read:
	// an editor or the kubelet changes it in several steps. A folder that is
	// never quiet has the poll.
	settleTime = 100 * time.Millisecond
	// pollEvery is the fallback where notifications do not reach: network file
	// systems, links into another folder, an exhausted inotify limit. It is
	// also when a configuration that was refused is tried again.
	pollEvery = 10 * time.Second
)

// reloader applies the configuration anew when it may have changed.
type reloader struct {
	*plugin
	hup <-chan os.Signal
}

// run returns when ctx ends.
func (r *reloader) run(ctx context.Context) {
	events, errs, stop := r.watch()
	defer stop()
	var poll <-chan time.Time
	if r.cmd.configPath != "" {
		t := time.NewTicker(pollEvery)
		defer t.Stop()
		poll = t.C
	}
	// Once at first: the file may have changed since it was read.
	settled := time.NewTimer(settleTime)
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			settled.Reset(settleTime)
		case <-errs: // events were lost, so assume one
			settled.Reset(settleTime)
		case <-settled.C:
			r.reload(ctx, false)
		case <-poll:
			r.reload(ctx, false)
		case <-r.hup:
			r.log.Info("SIGHUP: reading the configuration again")
			r.reload(ctx, true)
		}
	}
}

// watch reports events in the file's folder rather than on the file, because a
// mounted ConfigMap or Secret changes by a swap of a link beside it, and an
// editor's save by a rename over it. Neither is an event of the old file.
func (r *reloader) watch() (events <-chan fsnotify.Event, errs <-chan error, stop func()) {
	stop = func() {}
	path := r.cmd.configPath
	if path == "" {
		return nil, nil, stop
	}
	w, err := fsnotify.NewWatcher()
	if err == nil {
		stop = func() { w.Close() }
		err = w.Add(filepath.Dir(path))
	}
	if err != nil {
		r.log.Warn("the configuration file is polled, not watched", "file", path, "every", pollEvery, "err", err)
		return nil, nil, stop
	}
	return w.Events, w.Errors, stop
}

// reload applies the configuration if the file differs from the one in use, or if
// an operator asked for it.
func (r *reloader) reload(ctx context.Context, asked bool) {
	next, err := r.cmd.load()
	if err == nil && (asked || next.digest != r.settings.digest) {
		err = r.apply(ctx, next, asked)
	}
	r.metrics.reloaded(err)
	if err == nil {
		r.refused.Store(nil)
		return
	}
	// Logged once, not at every poll.
	text := err.Error()
	if last := r.refused.Swap(&text); asked || last == nil || *last != text {
		r.log.Error("new configuration refused; the old one stays in use", "file", r.cmd.configPath, "err", err)
	}
}
