package harness

import (
	"context"
	"fmt"
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
	writes   int
	slowest  time.Duration
	failures []string
}

// Report is what a load has seen.
type Report struct {
	Reads, Writes int
	Slowest       time.Duration
	// Failures are the errors of requests, each with the time it happened.
	Failures []string
}

func (r Report) String() string {
	return fmt.Sprintf("%d reads and %d writes, %d failed, the slowest took %s", r.Reads, r.Writes, len(r.Failures), round(r.Slowest))
}

// StartLoad makes a Secret in the namespace of o every 50 ms and reads one of o
// in between, until Stop.
func (c *Cluster) StartLoad(t testing.TB, o *Objects) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{stop: cancel}
	t.Cleanup(func() { l.Stop() })
	secrets := c.API.Client.CoreV1().Secrets(o.Namespace)
	plaintext := o.Plaintext
	l.run(ctx, &l.writes, func(ctx context.Context, i int) error {
		_, err := secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("load-%d", i)},
			Data:       map[string][]byte{dataKey: plaintext},
		}, metav1.CreateOptions{})
		return err
	})
	count := o.Count
	l.run(ctx, &l.reads, func(ctx context.Context, i int) error {
		got, err := secrets.Get(ctx, name(i%count), metav1.GetOptions{})
		if err != nil {
			return err
		}
		return o.same(got.Data[dataKey])
	})
	return l
}

// Stop ends the load and tells what it has seen. It may be called again.
func (l *Load) Stop() Report {
	l.stop()
	l.done.Wait()
	return Report{Reads: l.reads, Writes: l.writes, Slowest: l.slowest, Failures: l.failures}
}

func (l *Load) run(ctx context.Context, count *int, do func(context.Context, int) error) {
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
			l.note(count, time.Since(began), err)
		}
	})
}

func (l *Load) note(count *int, took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*count++
	l.slowest = max(l.slowest, took)
	if err != nil {
		l.failures = append(l.failures, time.Now().Format(time.TimeOnly)+" "+err.Error())
	}
}
