package cache

import (
	"runtime"
	"slices"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// put stores a verified key, in place of what stood there, as an entry of the kind
// that c.pins says. It refuses a key that the gate does not admit. c.mu is held.
func (c *Cache) put(k entryKey, key *envelope.OpenKey) bool {
	generation, ok := c.admits(key)
	if !ok {
		return false
	}
	if old := c.index.get(&k); old != nil {
		c.drop(old)
		if old.key != key {
			wipeWhenUnused(old.key)
		}
	}
	e := &entry{header: key.Header(), key: key, pinned: slices.Contains(c.pins[:], k)}
	e.admitted.Store(generation)
	if !e.pinned {
		c.makeRoom()
		c.lru.Add(k, e)
		// A timer for each entry, so that a hit need not look at the clock and an
		// unused key goes in time as well.
		e.aging = time.AfterFunc(c.maxAge, func() { c.expire(e) })
	}
	c.index.add(e)
	return true
}

// drop takes e out of the index and the LRU and leaves its key alone. c.mu is held.
func (c *Cache) drop(e *entry) {
	c.index.remove(e)
	if !e.pinned {
		c.lru.Remove(e.name())
		e.aging.Stop()
	}
	c.past += e.hits.Load()
}

// makeRoom evicts if the LRU is full. Hits do not touch the LRU, whose lock would
// make them wait for each other: an entry that turns out to have been hit since it
// was last looked at is moved to the front now and the next one looked at (the
// second chance of the CLOCK algorithm). Each such move was paid for by a hit, and
// there is one round of them, or hits that go on meanwhile could prolong it without
// end. c.mu is held.
func (c *Cache) makeRoom() {
	for chances := c.lru.Len(); c.lru.Len() >= c.entries; chances-- {
		_, e, ok := c.lru.GetOldest()
		if !ok {
			return
		}
		if hits := e.hits.Load(); hits != e.seen && chances > 0 {
			e.seen = hits
			c.lru.Get(e.name())
			continue
		}
		c.drop(e)
		wipeWhenUnused(e.key)
	}
}

// wipeWhenUnused wipes a key that left the cache for want of room or for its age, or
// never entered it, as soon as the last reader has let go of it, which only the
// garbage collector can tell: a reader gets a plain pointer and gives nothing back.
func wipeWhenUnused(k *envelope.OpenKey) {
	runtime.SetFinalizer(k, nil) // a key can be evicted, pinned and evicted again
	runtime.SetFinalizer(k, (*envelope.OpenKey).Wipe)
}

// expire drops an entry that has reached its age, used or not.
func (c *Cache) expire(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.index.holds(e) {
		c.drop(e)
		wipeWhenUnused(e.key)
	}
}
