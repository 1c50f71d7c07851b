package rotation

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Run watches the keys until ctx ends, and returns ctx's error: it probes the
// writer every ProbeInterval (a little less, so that nodes do not march in step) and
// within seconds after a bad answer, announces the change of writer at ActivateAt,
// rehearses the coming writer, and reads attributes every few minutes.
func (r *Ring) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	// Apart, because a slow answer about another key must not delay what is promised
	// about the writer.
	wg.Go(func() { r.watchWriter(ctx) })
	wg.Go(func() { r.watchOthers(ctx) })
	wg.Wait()
	return ctx.Err()
}

// watchWriter probes the writer, at once after a reload or a change of writer.
func (r *Ring) watchWriter(ctx context.Context) {
	var waiting *layout // that in which current did not write yet at the last look
	for ctx.Err() == nil {
		l := r.layout.Load()
		m := l.writer(r.o.Now())
		if m != l.current {
			waiting = l
		} else if waiting == l {
			r.activated(l)
			waiting = nil
		}
		before, began := m.health.Load(), time.Now()
		r.probe(ctx, m)
		delay := r.pace(before, m.health.Load(), time.Since(began))
		if m != l.current {
			delay = min(delay, max(l.activateAt.Sub(r.o.Now()), 0))
		}
		l.wait(ctx, delay)
	}
}

// activated announces that the current key of l has begun to write, by the clock.
func (r *Ring) activated(l *layout) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.layout.Load() == l {
		r.notify()
		r.o.Logger.Info("the current key takes over as planned", slog.String("key", l.current.label()), slog.String("key_id", l.current.id()))
	}
}

// pace is the time to the next probe, given the records before and after the last
// and how long that took. The interval runs from beginning to beginning, since a good
// answer may be true of that instant only and [Ring.RevocationBound] counts from it.
func (r *Ring) pace(before, after *record, took time.Duration) time.Duration {
	bad := after.Err != nil && after.State != Expired
	firstBad := bad && before.Err == nil
	soon := min(confirmAfter, r.o.ProbeInterval)
	if after.open() || firstBad || after.State == Unknown {
		return soon
	}
	return max(soon, r.o.ProbeInterval-rand.N(r.o.ProbeInterval/10+1)-took) // jitter is no secret
}

// watchOthers probes the keys besides the writer whose health matters: the one that
// will write next, so that trouble shows before it does, and those known to be
// revoked, so that they come back.
func (r *Ring) watchOthers(ctx context.Context) {
	for ctx.Err() == nil {
		l := r.layout.Load()
		r.readAttributes(ctx)
		for read := r.o.Now(); ctx.Err() == nil && r.o.Now().Sub(read) < attributeInterval; {
			writer := l.writer(r.o.Now())
			for _, m := range l.members {
				if m != writer && (m == l.current || m.health.Load().State == Revoked) {
					r.probe(ctx, m)
				}
			}
			if !l.wait(ctx, r.o.ProbeInterval) {
				break
			}
		}
	}
}

// wait sleeps for d and reports whether it could: false when ctx ended or a reload
// replaced l.
func (l *layout) wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.superseded:
	case <-ctx.Done():
	}
	return false
}
