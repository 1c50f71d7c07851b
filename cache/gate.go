package cache

import "github.com/keyfold/keyfold/envelope"

// A Gate decides whether a key that was unwrapped earlier may still be used. A
// rotation.Ring is one. Both methods must be fast, without I/O, safe for concurrent
// use, and must not call the cache.
type Gate interface {
	// Generation changes whenever an answer of Admits may have changed from true to
	// false, after the change itself. It is asked on every hit.
	Generation() uint64
	// Admits reports whether the key with this id is configured and not revoked.
	Admits(keyID string) bool
}

// open is the gate of a cache without one.
type open struct{}

func (open) Generation() uint64 { return 0 }
func (open) Admits(string) bool { return true }

// admits returns the gate's verdict on a key and the generation that it holds for.
// The generation is read first: a change in between then shows at the next hit.
func (c *Cache) admits(k *envelope.OpenKey) (generation uint64, ok bool) {
	generation = c.gate.Generation()
	for _, id := range k.KeyIDs() {
		if c.gate.Admits(id) {
			return generation, true
		}
	}
	return generation, false
}

// readmit reports whether e, found under an older generation, may be served.
func (c *Cache) readmit(e *entry) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweep()
	return c.index.holds(e)
}

// sweep drops and wipes every key that the gate admits no more, if its generation
// has changed since the last sweep. The first call after a change does that for all
// entries, so that no key of a revoked KEK stays in memory because nobody asks for
// it. c.mu is held, and every entry in the index was admitted at the last sweep or
// after it.
func (c *Cache) sweep() {
	generation := c.gate.Generation()
	if generation == c.swept {
		return
	}
	c.swept = generation
	for e := range c.index.all() {
		if at, ok := c.admits(e.key); ok {
			e.admitted.Store(at)
		} else {
			c.drop(e)
			e.key.Wipe()
		}
	}
}
