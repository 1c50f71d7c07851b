package cache

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// entryKey names a header: its DEK id and its tag.
type entryKey struct {
	dekID [16]byte
	tag   [32]byte
}

// entry is one verified header and its key.
type entry struct {
	entryKey
	key    *envelope.OpenKey
	pinned bool
	aging  *time.Timer // nil if pinned

	admitted atomic.Uint64 // the gate's generation at which the key was last admitted
	hits     atomic.Uint64
	seen     uint64 // hits at the last look for something to evict; under Cache.mu

	next atomic.Pointer[entry] // in the index
}

// index finds entries without a lock. It is a hash table of fixed size, chained:
//
//	buckets  0        1        2        3   …
//	         │                 │
//	         ▼                 ▼
//	        entry            entry ──► entry
//
// Readers follow pointers that are only ever replaced whole. Writers, who hold
// Cache.mu, put an entry in with one store and take it out with one; a reader
// standing on an entry that is taken out still finds its way to the end of the
// chain. So a hit neither waits nor writes anything but its own entry's counter.
//
// The hash is seeded: whoever holds a public KEK may choose DEK ids and try many
// tags, and must not be able to choose buckets.
type index struct {
	seed    maphash.Seed
	mask    uint64
	buckets []atomic.Pointer[entry]
}

// newIndex makes a table that holds n entries at two buckets or more for each.
func newIndex(n int) index {
	size := 1 << bits.Len(uint(2*n-1))
	return index{seed: maphash.MakeSeed(), mask: uint64(size - 1), buckets: make([]atomic.Pointer[entry], size)}
}

func (x *index) bucket(k *entryKey) *atomic.Pointer[entry] {
	return &x.buckets[maphash.Bytes(x.seed, k.tag[:])&x.mask]
}

func (x *index) get(k *entryKey) *entry {
	for e := x.bucket(k).Load(); e != nil; e = e.next.Load() {
		if e.entryKey == *k {
			return e
		}
	}
	return nil
}

// add puts in an entry whose key is not in the index. Cache.mu is held.
func (x *index) add(e *entry) {
	b := x.bucket(&e.entryKey)
	e.next.Store(b.Load())
	b.Store(e)
}

// remove takes e out. Cache.mu is held.
func (x *index) remove(e *entry) {
	link := x.bucket(&e.entryKey)
	for at := link.Load(); at != nil; at = link.Load() {
		if at == e {
			link.Store(e.next.Load())
			return
		}
		link = &at.next
	}
}
