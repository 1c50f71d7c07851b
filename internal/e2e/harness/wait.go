package harness

import (
	"context"
	"errors"
	"testing"
	"time"
)

// errGiveUp is wrapped by conditions that cannot come true any more.
var errGiveUp = errors.New("it cannot come true any more")

// every is how often Eventually looks. It is short, because what is looked at
// is cheap, and not shorter, because two cores do all the work.
const every = 100 * time.Millisecond

// Eventually waits until ok returns nil and returns how long that took. It
// fails the test with ok's last error when the time is over.
func Eventually(t testing.TB, within time.Duration, what string, ok func(ctx context.Context) error) time.Duration {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := ok(ctx)
		if err == nil {
			return time.Since(began)
		}
		if errors.Is(err, errGiveUp) {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, within, err)
		}
	}
}

// Always fails the test as soon as ok returns an error within the time.
func Always(t testing.TB, during time.Duration, what string, ok func(ctx context.Context) error) {
	t.Helper()
	over := time.NewTimer(during)
	defer over.Stop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	began := time.Now()
	for {
		if err := ok(t.Context()); err != nil {
			t.Fatalf("%s: no more after %s: %v", what, time.Since(began), err)
		}
		select {
		case <-tick.C:
		case <-over.C:
			return
		}
	}
}
