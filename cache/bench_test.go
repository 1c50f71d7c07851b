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

// BenchmarkHit compares a hit with its floor, a bare golang-lru Get under a key of
// the same size that is ready at hand. The cache does more for a hit: it finds the
// key in the header, compares the header and asks the gate. Run it with -cpu 1,2.
func BenchmarkHit(b *testing.B) {
	for _, size := range []int{1024, 8192} {
		kek := newFakeKEK("bench")
		c, err := cache.New(kek, cache.Options{Entries: size, Gate: newGate()})
		if err != nil {
			b.Fatal(err)
		}
		floor, err := lru.New[[48]byte, *envelope.OpenKey](size)
		if err != nil {
			b.Fatal(err)
		}
		headers, keys := make([][]byte, size), make([][48]byte, size)
		for i := range headers {
			headers[i] = kek.header(b)
			k, err := c.OpenKey(context.Background(), headers[i])
			if err != nil {
				b.Fatal(err)
			}
			id, tag, err := envelope.HeaderKey(headers[i])
			if err != nil {
				b.Fatal(err)
			}
			copy(keys[i][:16], id[:])
			copy(keys[i][16:], tag[:])
			floor.Add(keys[i], k)
		}
		hit := func(i int) bool {
			k, err := c.OpenKey(context.Background(), headers[i%size])
			return err == nil && k != nil
		}
		get := func(i int) bool {
			k, ok := floor.Get(keys[i%size])
			return ok && k != nil
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
