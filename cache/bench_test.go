package cache_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/keyfold/keyfold/cache"
	"github.com/keyfold/keyfold/envelope"
)

// fullKey is what a bare LRU would be keyed by.
func fullKey(header []byte) (k [16 + 32]byte, err error) {
	id, tag, err := envelope.HeaderKey(header)
	copy(k[:16], id[:])
	copy(k[16:], tag[:])
	return k, err
}

// BenchmarkHit compares a hit with its floor: a Get of a bare golang-lru of the same
// size that has its key of 48 bytes at hand. The cache does more for a hit: it finds
// the key in the header, compares all of the header and asks the gate. Run it with
// -cpu 1,2.
func BenchmarkHit(b *testing.B) {
	for _, size := range []int{1024, 4096, 8192} {
		kek := newFakeKEK("bench")
		c, err := cache.New(kek, cache.Options{Entries: size, Gate: newGate()})
		if err != nil {
			b.Fatal(err)
		}
		floor, err := lru.New[[48]byte, *envelope.OpenKey](size)
		if err != nil {
			b.Fatal(err)
		}
		headers := make([][]byte, size)
		keys := make([][48]byte, size)
		for i := range headers {
			headers[i] = kek.header(b)
			k, err := c.OpenKey(context.Background(), headers[i])
			if err != nil {
				b.Fatal(err)
			}
			key, err := fullKey(headers[i])
			if err != nil {
				b.Fatal(err)
			}
			floor.Add(key, k)
			keys[i] = key
		}
		hit := func(i int) bool {
			k, err := c.OpenKey(context.Background(), headers[i%size])
			return err == nil && k != nil
		}
		get := func(i int) bool {
			v, ok := floor.Get(keys[i%size])
			return ok && v != nil
		}
		for _, s := range []struct {
			name string
			get  func(i int) bool
		}{{"cache", hit}, {"lru", get}} {
			b.Run(fmt.Sprintf("%s/%d/serial", s.name, size), func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					if !s.get(i) {
						b.Fatal("miss")
					}
					i += 7
				}
			})
			b.Run(fmt.Sprintf("%s/%d/parallel", s.name, size), func(b *testing.B) {
				b.ReportAllocs()
				var start atomic.Int64
				b.RunParallel(func(pb *testing.PB) {
					i := int(start.Add(1)) * size / 3
					for pb.Next() {
						if !s.get(i) {
							b.Error("miss")
							return
						}
						i += 7
					}
				})
			})
		}
	}
}
