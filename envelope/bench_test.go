package envelope_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// The floor of every benchmark is plain AES-256-GCM with random nonces, in the
// same run and over as many distinct messages. "keyfold" beside "floor" is what
// envelopes cost over a cipher. Each envelope carries its header, which is written
// and compared: "ratio" is with that of an AES wrap (its blob is 60 bytes),
// "ratio-rsa2048" with one that is 196 bytes longer.

// benchEnvelopes is how many envelopes take turns, so that no cache of the
// processor flatters the result. It is also what "ratio" takes in one turn.
const benchEnvelopes = 1024

var benchSizes = []int{64, 1 << 10, 64 << 10}

const (
	aesBlob = 60  // nonce, DEK and tag of AES-256-GCM
	rsaBlob = 256 // RSA-2048
)

// oneKey is a KeySource with one key, which compares whole headers as a cache
// does; what finding one among many costs is package cache's to measure.
type oneKey struct{ k *envelope.OpenKey }

func (o oneKey) OpenKey(_ context.Context, header []byte) (*envelope.OpenKey, error) {
	if !bytes.Equal(header, o.k.Header()) {
		return nil, envelope.ErrUnknownKey
	}
	return o.k, nil
}

type bench struct {
	aad        []byte
	floor      cipher.AEAD
	sealer     *envelope.Sealer
	opener     *envelope.Opener
	plaintexts [][]byte
	sealed     [][]byte // by floor
	envelopes  [][]byte
}

func newBench(b *testing.B, size, blob int) *bench {
	b.Helper()
	block, err := aes.NewCipher(random(32))
	if err != nil {
		b.Fatal(err)
	}
	f := &bench{aad: []byte("benchmark/associated data")}
	if f.floor, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		b.Fatal(err)
	}
	wrapped := envelope.WrappedKey{
		KeyID: envelope.Family("bench", "", "") + "/0123456789abcdef0123456789abcdef", Algorithm: "benchmark", Blob: random(blob),
	}
	wrapper := wrapFunc(func(context.Context, []byte) (envelope.WrappedKey, error) { return wrapped, nil })
	f.sealer, err = envelope.NewSealer(wrapper, envelope.SealerOptions{
		OnNewDEK: func(k *envelope.OpenKey, _ time.Time) { f.opener = envelope.NewOpenerFrom(oneKey{k}) },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(f.sealer.Close)
	for range benchEnvelopes {
		p := random(size)
		env, err := f.sealer.Seal(b.Context(), p, f.aad)
		if err != nil {
			b.Fatal(err)
		}
		f.plaintexts = append(f.plaintexts, p)
		f.envelopes = append(f.envelopes, env)
		f.sealed = append(f.sealed, f.floor.Seal(nil, nil, p, f.aad))
	}
	b.ResetTimer()
	return f
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// operation does one thing to envelope i, with a buffer of its own goroutine.
type operation func(f *bench, buf []byte, i int) error

func runBench(b *testing.B, keyfold, floor operation) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("size=%d/ratio", size), func(b *testing.B) {
			newBench(b, size, aesBlob).runRatio(b, size, keyfold, floor)
		})
		b.Run(fmt.Sprintf("size=%d/ratio-rsa2048", size), func(b *testing.B) {
			newBench(b, size, rsaBlob).runRatio(b, size, keyfold, floor)
		})
		for _, parallel := range []bool{false, true} {
			for _, side := range []struct {
				name string
				op   operation
			}{{"keyfold", keyfold}, {"floor", floor}} {
				name := fmt.Sprintf("size=%d/%s", size, side.name)
				if parallel {
					name = fmt.Sprintf("size=%d/parallel/%s", size, side.name)
				}
				b.Run(name, func(b *testing.B) {
					f := newBench(b, size, aesBlob)
					b.ReportAllocs()
					if parallel {
						f.runParallel(b, size, side.op)
						return
					}
					buf := make([]byte, 0, size+1024)
					for i := 0; b.Loop(); i++ {
						if err := side.op(f, buf, i%benchEnvelopes); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// runRatio lets the two sides take short turns, each first as often as second, so
// that whatever else the machine is doing slows both, and reports the median of
// keyfold's time over floor's.
func (f *bench) runRatio(b *testing.B, size int, keyfold, floor operation) {
	buf := make([]byte, 0, size+1024)
	turn := func(op operation) float64 {
		start := time.Now()
		for i := range benchEnvelopes {
			if err := op(f, buf, i); err != nil {
				b.Fatal(err)
			}
		}
		return float64(time.Since(start))
	}
	var ratios []float64
	for b.Loop() {
		first := turn(keyfold) / turn(floor)
		second := 1 / (turn(floor) / turn(keyfold))
		ratios = append(ratios, first, second)
	}
	slices.Sort(ratios)
	b.ReportMetric((ratios[len(ratios)/2-1]+ratios[len(ratios)/2])/2, "x-floor")
	b.ReportMetric(0, "ns/op") // of both sides together, which says nothing
}

func (f *bench) runParallel(b *testing.B, size int, op operation) {
	var start atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, 0, size+1024)
		for i := int(start.Add(benchEnvelopes / 8)); pb.Next(); i++ {
			if err := op(f, buf, i%benchEnvelopes); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	runBench(b, func(f *bench, _ []byte, i int) error {
		_, err := f.sealer.Seal(context.Background(), f.plaintexts[i], f.aad)
		return err
	}, func(f *bench, _ []byte, i int) error {
		f.floor.Seal(nil, nil, f.plaintexts[i], f.aad)
		return nil
	})
}

func BenchmarkAppendSeal(b *testing.B) {
	runBench(b, func(f *bench, buf []byte, i int) error {
		_, err := f.sealer.AppendSeal(context.Background(), buf, f.plaintexts[i], f.aad)
		return err
	}, func(f *bench, buf []byte, i int) error {
		f.floor.Seal(buf, nil, f.plaintexts[i], f.aad)
		return nil
	})
}

func BenchmarkOpen(b *testing.B) {
	runBench(b, func(f *bench, _ []byte, i int) error {
		_, err := f.opener.Open(context.Background(), f.envelopes[i], f.aad)
		return err
	}, func(f *bench, _ []byte, i int) error {
		_, err := f.floor.Open(nil, nil, f.sealed[i], f.aad)
		return err
	})
}

func BenchmarkAppendOpen(b *testing.B) {
	runBench(b, func(f *bench, buf []byte, i int) error {
		_, err := f.opener.AppendOpen(context.Background(), buf, f.envelopes[i], f.aad)
		return err
	}, func(f *bench, buf []byte, i int) error {
		_, err := f.floor.Open(buf, nil, f.sealed[i], f.aad)
		return err
	})
}
