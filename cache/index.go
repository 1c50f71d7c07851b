package cache

import (
	"bytes"
	"errors"
	"hash/maphash"
	"iter"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

const tagSize = 32

// entryKey names a header: its DEK id and its tag.
type entryKey struct {
	dekID [16]byte
	tag   [tagSize]byte
}

func keyOf(header []byte) (entryKey, error) {
	dekID, tag, err := envelope.HeaderKey(header)
	return entryKey{dekID, tag}, err
}

// entry is one verified header and its key. What a hit touches comes first and is
// one cache line of 64 bytes: the size of an entry, a multiple of that, has the
// allocator put it so (measured: a quarter less for a hit among 8,192).
type entry struct {
	hash     uint64
	next     atomic.Pointer[entry] // in the index
	header   []byte                // that of key
	key      *envelope.OpenKey
	admitted atomic.Uint64 // the gate's generation at which the key was last admitted
	hits     atomic.Uint64

	seen   uint64 // hits at the last look for something to evict; under Cache.mu
	pinned bool
	aging  *time.Timer // nil if pinned
	_      [40]byte
}

// name is the entry's key in index and LRU.
func (e *entry) name() entryKey {
	k, _ := keyOf(e.header) // well-formed, or it would have no OpenKey
	return k
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

func (x *index) hash(tag []byte) uint64 { return maphash.Bytes(x.seed, tag) }

func (x *index) bucket(hash uint64) *atomic.Pointer[entry] { return &x.buckets[hash&x.mask] }

// get returns the entry with key k, or nil.
func (x *index) get(k *entryKey) *entry {
	hash := x.hash(k.tag[:])
	for e := x.bucket(hash).Load(); e != nil; e = e.next.Load() {
		if e.hash == hash && e.name() == *k {
			return e
		}
	}
	return nil
}

// holds reports whether e is in the index.
func (x *index) holds(e *entry) bool {
	name := e.name()
	return x.get(&name) == e
}

// match returns the entry of exactly these bytes, or nil. Equal to a verified header,
// they need no check of their own, and they end with the tag that they are found by.
func (x *index) match(header []byte) *entry {
	tag := header[max(0, len(header)-tagSize):]
	hash := x.hash(tag)
	for e := x.bucket(hash).Load(); e != nil; e = e.next.Load() {
		if e.hash == hash && bytes.Equal(e.header, header) {
			return e
		}
	}
	return nil
}

// find returns the entry of a header whose key is k, or nil. The tag authenticates
// every byte of the header, so the same key over other bytes is a forgery, whatever
// the KEK would say.
func (x *index) find(k *entryKey, header []byte) (*entry, error) {
	e := x.get(k)
	if e != nil && !bytes.Equal(e.header, header) {
		return nil, errMismatch
	}
	return e, nil
}

var errMismatch = &envelope.Error{
	Class: envelope.ErrCorrupt, Op: "open",
	Err: errors.New("the header differs from the one authenticated with this DEK id and tag"),
}

// add puts in an entry whose key is not in the index. Cache.mu is held.
func (x *index) add(e *entry) {
	name := e.name()
	e.hash = x.hash(name.tag[:])
	b := x.bucket(e.hash)
	e.next.Store(b.Load())
	b.Store(e)
}

// remove takes e out. Cache.mu is held.
func (x *index) remove(e *entry) {
	link := x.bucket(e.hash)
	for at := link.Load(); at != nil; at = link.Load() {
		if at == e {
			link.Store(e.next.Load())
			return
		}
		link = &at.next
	}
}

// all yields every entry; the one at hand may be taken out. Cache.mu is held.
func (x *index) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for i := range x.buckets {
			for e := x.buckets[i].Load(); e != nil; e = e.next.Load() {
				if !yield(e) {
					return
				}
			}
		}
	}
}
