package cache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/keyfold/keyfold/envelope"
)

// Options bound a [Cache]. The zero value is safe.
type Options struct {
	// Entries is the largest number of opened DEKs held, the pinned ones apart; 4096
	// if zero. One takes 1 to 2 KiB, and never more than 2 KiB and its header
	// ([envelope.MaxHeaderSize]).
	Entries int
	// MaxAge is how long after its unwrap a DEK is dropped, used or not; 24 hours if
	// zero. It runs on timers of the process. It should be longer than the outages of
	// the key store that are to be ridden out.
	MaxAge time.Duration
	// FailureTTL is how long a definite failure is remembered; 10 s if zero.
	FailureTTL time.Duration
	// Gate is asked before a hit is served. Nil admits everything.
	Gate Gate
	// Now is the clock of FailureTTL, time.Now if nil.
	Now func() time.Time
}

const (
	defaultEntries    = 4096
	defaultMaxAge     = 24 * time.Hour
	defaultFailureTTL = 10 * time.Second
)

// Stats are counts since the cache was made, and its size now.
type Stats struct {
	// Hits were served from memory, Misses were not. Of the misses, Loads called
	// the KEK (others waited for one of those, or met a remembered failure), and
	// Failures of those loads failed.
	Hits     uint64 `json:"hits"`
	Misses   uint64 `json:"misses"`
	Loads    uint64 `json:"loads"`
	Failures uint64 `json:"failures"`
	// Entries is the number of DEKs held, Pinned of which are the Sealer's own.
	Entries int `json:"entries"`
	Pinned  int `json:"pinned"`
}

// A Cache holds opened DEKs. It is safe for concurrent use. It has nothing to
// close, but [Cache.Purge] it when done with it.
type Cache struct {
	unwrapper envelope.Unwrapper
	entries   int
	maxAge    time.Duration
	gate      Gate
	now       func() time.Time
	index     index

	slots chan struct{} // holds one token for each load that runs

	misses, loads, failures atomic.Uint64

	mu      sync.Mutex // guards what follows, and changes of index
	lru     *simplelru.LRU[entryKey, *entry]
	pins    [pinned]entryKey // the last two keys pinned, newest first
	swept   uint64           // the gate's generation at the last sweep
	past    uint64           // hits of entries that are gone
	purges  uint64           // a load that began before a purge is not stored after it
	flights map[digest]*flight
	failed  failureMemory
}

// pinned is how many of the Sealer's own DEKs are held: the one in use and the one
// before it, under which requests may still be on their way.
const pinned = 2

var _ envelope.KeySource = (*Cache)(nil)

// New returns a cache in front of u. A negative bound is [envelope.ErrInvalid].
func New(u envelope.Unwrapper, o Options) (*Cache, error) {
	if u == nil {
		return nil, invalid("no unwrapper")
	}
	if o.Entries < 0 || o.MaxAge < 0 || o.FailureTTL < 0 {
		return nil, invalid("Entries, MaxAge and FailureTTL must not be negative")
	}
	if o.Entries == 0 {
		o.Entries = defaultEntries
	}
	if o.MaxAge == 0 {
		o.MaxAge = defaultMaxAge
	}
	if o.FailureTTL == 0 {
		o.FailureTTL = defaultFailureTTL
	}
	if o.Gate == nil {
		o.Gate = open{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	lru, err := simplelru.NewLRU[entryKey, *entry](o.Entries, nil)
	if err != nil {
		return nil, invalid(err.Error())
	}
	failed, err := newFailureMemory(o.FailureTTL)
	if err != nil {
		return nil, invalid(err.Error())
	}
	return &Cache{
		unwrapper: u, entries: o.Entries, maxAge: o.MaxAge, gate: o.Gate, now: o.Now, swept: o.Gate.Generation(),
		index: newIndex(o.Entries + pinned), lru: lru, failed: failed,
		flights: make(map[digest]*flight), slots: make(chan struct{}, maxLoads),
	}, nil
}

// OpenKey returns the verified key of a detached header: from memory, or by one
// unwrap that everybody who asks for this header meanwhile shares. It answers as
// [envelope.OpenHeader] does.
//
// The key belongs to the cache: do not wipe it, and do not hold it for longer than
// the message at hand, or a revocation will not reach it. A key dropped by a purge
// or a revocation fails with [envelope.ErrInvalid] from then on;
// [envelope.NewOpenerFrom] asks again by itself.
func (c *Cache) OpenKey(ctx context.Context, header []byte) (*envelope.OpenKey, error) {
	if e := c.index.match(header); e != nil && (e.admitted.Load() == c.gate.Generation() || c.readmit(e)) {
		e.hits.Add(1)
		return e.key, nil
	}
	k, err := keyOf(header)
	if err != nil {
		return nil, err
	}
	return c.miss(ctx, k, header)
}

// Pin holds k, one of the Sealer's own DEKs, whatever else passes through the
// cache: it is neither evicted nor aged while it is among the last two pinned. It
// becomes an ordinary entry after that. Give it to
// [envelope.SealerOptions].OnNewDEK. The cache owns k from now on.
func (c *Cache) Pin(k *envelope.OpenKey) {
	key, err := keyOf(k.Header())
	if err != nil {
		return // unreachable: the header of an OpenKey is well-formed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweep()
	if key != c.pins[0] {
		oldest := c.pins[pinned-1]
		c.pins = [pinned]entryKey{key, c.pins[0]}
		if e := c.index.get(&oldest); e != nil {
			c.put(oldest, e.key)
		}
	}
	if !c.put(key, k) {
		k.Wipe()
	}
}

// Purge drops and wipes every key, pinned ones too, and forgets every failure. A
// load that is under way is not stored.
func (c *Cache) Purge() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.purges++
	c.failed.purge()
	for e := range c.index.all() {
		c.drop(e)
		e.key.Wipe()
	}
}

// Stats returns the counts. It visits every entry.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Stats{Hits: c.past, Misses: c.misses.Load(), Loads: c.loads.Load(), Failures: c.failures.Load()}
	for e := range c.index.all() {
		s.Hits += e.hits.Load()
		s.Entries++
		if e.pinned {
			s.Pinned++
		}
	}
	return s
}

func invalid(what string) error {
	return &envelope.Error{Class: envelope.ErrInvalid, Op: "new cache", Err: errors.New(what)}
}
