package kmsv2

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/kms/pkg/service"

	"github.com/keyfold/keyfold/cache"
	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/rotation"
)

// Service answers KMS requests from a ring of keys. It is safe for concurrent use.
// It needs [Service.Run] in the background: without it there is never a key to
// write with.
type Service struct {
	o     Options
	ring  *rotation.Ring
	cache *cache.Cache
	open  *envelope.Opener
	state *stateFile               // nil without a StateDir
	saved atomic.Pointer[savedDEK] // what the state folder holds

	keysMu sync.Mutex // serialises changes of keys
	keys   atomic.Pointer[writeKeys]

	// waiting tells requests that come before the first write key what goes on.
	waiting waiting
	// wake asks Run to look again.
	wake    chan struct{}
	running atomic.Bool
	closed  atomic.Bool

	started  time.Time
	counts   counters
	failures limiter
}

var _ service.Service = (*Service)(nil)

// New returns a service for ring. It makes no network call. An unusable StateDir is
// [envelope.ErrInvalid]; unusable state in it is logged and ignored.
func New(ring *rotation.Ring, o Options) (*Service, error) {
	if ring == nil {
		return nil, invalid("new KMS service", "make one with rotation.New", "there is no ring")
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	cacheOptions := o.Cache
	cacheOptions.Gate, cacheOptions.Now = ring, o.Now
	if cacheOptions.MaxAge == 0 {
		// What was opened in the day before an outage lasts through the grace.
		cacheOptions.MaxAge = o.OutageGrace + 24*time.Hour
	}
	c, err := cache.New(ring, cacheOptions)
	if err != nil {
		return nil, err
	}
	s := &Service{
		o: o, ring: ring, cache: c, open: envelope.NewOpenerFrom(c),
		wake: make(chan struct{}, 1), started: o.Now(),
		failures: limiter{every: 10 * time.Second},
	}
	s.keys.Store(&writeKeys{})
	s.waiting.init()
	if o.StateDir != "" {
		if s.state, err = openStateFolder(o.StateDir); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Run does the background work until ctx ends, and then returns nil: it runs the
// ring, prepares a write key at the start and whenever the writer changes, and keeps
// the state. Requests go on being answered after it, from memory. It runs once.
func (s *Service) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return invalid("run KMS service", "call Run once", "the service runs already")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ringEnded := make(chan error, 1)
	go func() {
		ringEnded <- s.ring.Run(ctx)
		// Without the probe nobody would notice a revocation.
		cancel()
	}()
	var heldOver sync.WaitGroup
	heldOver.Go(func() { s.watchHeldOver(ctx) })
	newKeeper(s).run(ctx)
	heldOver.Wait()
	if err := <-ringEnded; err != nil && !errors.Is(err, ctx.Err()) {
		return err
	}
	return nil
}

// Close drops the keys from memory. Later requests fail. It does not end Run.
func (s *Service) Close() {
	s.closed.Store(true) // from here on Run cannot bring a key back
	s.waiting.fail(errServiceClosed)
	s.replaceKeys(func(writeKeys) writeKeys { return writeKeys{} })
	s.cache.Purge()
}

// nudge wakes Run, without waiting for it.
func (s *Service) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Service) log() *slog.Logger { return s.o.Logger }
