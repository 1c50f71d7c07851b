package harness

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Load is a continuous load of reads and writes on Secrets.
type Load struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu       sync.Mutex
	reads    int
	written  []string
	slowest  time.Duration
	failures []string
}

// Report is what a load has seen.
type Report struct {
	// Reads is the number of Secrets read, and each was what had been written.
	Reads int
	// Written are the names of the Secrets that the API server said it has stored.
	Written []string
	Slowest time.Duration
	// Failures are the errors of requests, each with the time it happened.
	Failures []string
}

func (r Report) String() string {
	return fmt.Sprintf("%d reads, %d writes, %d failed, the slowest took %s", r.Reads, len(r.Written), len(r.Failures), round(r.Slowest))
}

// MustBeClean fails the test unless there was a load and all of it went well.
func (r Report) MustBeClean(t testing.TB) {
	t.Helper()
	if n := len(r.Failures); n > 0 {
		t.Errorf("%d requests failed, the first ones: %q", n, r.Failures[:min(3, n)])
	}
	if r.Reads == 0 || len(r.Written) == 0 {
		t.Errorf("that is no load: %s", r)
	}
}

// StartLoad makes a Secret in the namespace of o every 50 ms, and reads one of o
// as often, until Stop. o is for reading alone from then on.
func (c *Cluster) StartLoad(t testing.TB, o *Objects) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{stop: cancel}
	t.Cleanup(func() { l.Stop() })
	secrets := c.API.Client.CoreV1().Secrets(o.Namespace)
	l.run(ctx, func(ctx context.Context, i int) error {
		name := fmt.Sprintf("load-%05d", i)
		_, err := secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Data:       map[string][]byte{dataKey: o.Plaintext},
		}, metav1.CreateOptions{})
		if err == nil {
			l.note(func() { l.written = append(l.written, name) })
		}
		return err
	})
	l.run(ctx, func(ctx context.Context, i int) error {
		got, err := secrets.Get(ctx, name(i%o.Count), metav1.GetOptions{})
		if err == nil {
			err = o.same(got.Data[dataKey])
		}
		if err == nil {
			l.note(func() { l.reads++ })
		}
		return err
	})
	return l
}

// Stop ends the load and tells what it has seen. It may be called again.
func (l *Load) Stop() Report {
	l.stop()
	l.done.Wait()
	return l.Report()
}

// Report tells what the load has seen so far.
func (l *Load) Report() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Report{
		Reads: l.reads, Written: slices.Clone(l.written),
		Slowest: l.slowest, Failures: slices.Clone(l.failures),
	}
}

func (l *Load) run(ctx context.Context, do func(context.Context, int) error) {
	l.done.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			// Its own time-out, and not ctx: the last request may end as well.
			began := time.Now()
			request, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			err := do(request, i)
			cancel()
			l.note(func() {
				l.slowest = max(l.slowest, time.Since(began))
				if err != nil {
					l.failures = append(l.failures, time.Now().Format(time.TimeOnly)+" "+err.Error())
				}
			})
		}
	})
}

func (l *Load) note(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}
