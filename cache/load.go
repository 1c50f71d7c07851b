package cache

import (
	"context"
	"crypto/sha256"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

const (
	// maxLoads is how many unwraps run at once. The rest wait: after a cold start
	// every DEK is asked for in the same second, and vaults throttle.
	maxLoads = 64
	// loadTimeout bounds one unwrap, whoever waits for it. Callers have deadlines of
	// their own, mostly shorter; what outlasts theirs is there for their next try.
	loadTimeout = 30 * time.Second
)

// flight is one load under way and those who wait for it.
type flight struct {
	cancel  context.CancelFunc
	waiters int  // under Cache.mu
	running bool // has a slot; under Cache.mu

	done     chan struct{} // closed when what follows is set
	key      *envelope.OpenKey
	err      error
	panicked any
}

// miss finds the key of a header that no entry answers for.
func (c *Cache) miss(ctx context.Context, k entryKey, header []byte) (*envelope.OpenKey, error) {
	c.misses.Add(1)
	if err := ctx.Err(); err != nil {
		return nil, gaveUp(err)
	}
	d := digest(sha256.Sum256(header))
	key, f, err := c.join(ctx, k, d, header)
	if f == nil {
		return key, err
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		c.leave(f, d)
		return nil, gaveUp(ctx.Err())
	}
	if f.panicked != nil {
		panic(f.panicked)
	}
	return f.key, f.err
}

// join returns the flight of a header, a new one if there is none. There is none
// to join if the key has been stored since the caller looked, or if the header is
// remembered to fail.
func (c *Cache) join(ctx context.Context, k entryKey, d digest, header []byte) (*envelope.OpenKey, *flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweep()
	if e, err := c.index.find(&k, header); err != nil {
		return nil, nil, err
	} else if e != nil {
		return e.key, nil, nil
	}
	generation := c.gate.Generation()
	if err := c.failed.recall(d, generation, c.now()); err != nil {
		return nil, nil, err
	}
	f := c.flights[d]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		// Callers may leave without ending the load, but its request id and the like
		// are the first one's.
		ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
		c.flights[d] = f
		go c.fly(ctx, f, k, d, slices.Clone(header), generation, c.purges)
	}
	f.waiters++
	return nil, f, nil
}

// leave ends the wait of one caller. A load that is still queued when the last one
// leaves is called off, so that there are never more of them than waiting callers.
func (c *Cache) leave(f *flight, d digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.waiters--
	if f.waiters == 0 && !f.running && c.flights[d] == f {
		delete(c.flights, d)
		f.cancel()
	}
}

// fly runs one load: it waits for a slot, calls the KEK and stores what comes back.
func (c *Cache) fly(ctx context.Context, f *flight, k entryKey, d digest, header []byte, generation, purges uint64) {
	defer close(f.done)
	defer f.cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return // called off: nobody waits
	}
	if !c.begin(f, d) {
		return
	}
	c.loads.Add(1)
	c.load(ctx, f, header)
	c.land(f, k, d, generation, purges)
}

// begin marks f as running, unless it was called off.
func (c *Cache) begin(f *flight, d digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.running = c.flights[d] == f
	return f.running
}

// load calls the KEK. A panic of the KEK is handed to the callers, whose server may
// have a way to survive it; here it would end the process.
func (c *Cache) load(ctx context.Context, f *flight, header []byte) {
	defer func() {
		if r := recover(); r != nil {
			f.panicked = fmt.Sprintf("%v\n\n%s", r, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	f.key, f.err = envelope.OpenHeader(ctx, c.unwrapper, header)
}

// land stores the result of a load, if it may be kept, and ends the flight.
func (c *Cache) land(f *flight, k entryKey, d digest, generation, purges uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.flights, d)
	switch {
	case f.key != nil:
		if purges != c.purges || !c.put(k, f.key) {
			wipeWhenUnused(f.key) // those who wait for it have it to themselves
		}
	case f.err != nil:
		c.failures.Add(1)
		c.failed.remember(d, f.err, generation, c.now())
	case f.panicked != nil:
		c.failures.Add(1)
	}
}

// gaveUp is the error of a caller whose context has ended while it waited.
func gaveUp(err error) error {
	return &envelope.Error{Class: envelope.ErrUnreachable, Op: "unwrap", Err: err}
}
