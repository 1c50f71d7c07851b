package kmsv2

import (
	"sync"
	"time"
)

// An Operation is what a request asked for. With [Domain] and Class it makes a
// bounded set of metric labels.
type Operation string

// The operations of both APIs; KMS v1 has no status.
const (
	OperationEncrypt Operation = "encrypt"
	OperationDecrypt Operation = "decrypt"
	OperationStatus  Operation = "status"
)

// An Event is one request that has been answered.
type Event struct {
	Domain    Domain
	Operation Operation
	// Class is "ok" or the class of the error, see [Class].
	Class    string
	Duration time.Duration
}

// An Observer is told of every request, from many goroutines at once, before the
// answer goes out: it must be quick. What is not an event (the cache, the health of
// the keys, the age of the DEK) is in [Service.Snapshot], to be read when metrics
// are collected.
type Observer interface {
	Observe(Event)
}

type discardObserver struct{}

func (discardObserver) Observe(Event) {}

// Count is how often requests of one kind ended in one way.
type Count struct {
	Domain    Domain    `json:"domain"`
	Operation Operation `json:"operation"`
	Class     string    `json:"class"`
	Count     uint64    `json:"count"`
}

// counters counts events for the snapshot.
type counters struct {
	mu sync.Mutex
	by map[Count]uint64 // the key's own Count is zero
}

func (c *counters) add(e Event) {
	key := Count{Domain: e.Domain, Operation: e.Operation, Class: e.Class}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = make(map[Count]uint64)
	}
	c.by[key]++
}

func (c *counters) list() []Count {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]Count, 0, len(c.by))
	for key, n := range c.by {
		key.Count = n
		list = append(list, key)
	}
	return list
}
