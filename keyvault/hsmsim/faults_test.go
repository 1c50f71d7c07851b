package hsmsim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/internal/bubble"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

const documentedFaults = `{"latency":"10ms","limit":{"operations":2000,"per":"10s"},"errorRate":0.25,"outage":true}`

func TestFaultsJSON(t *testing.T) {
	want := hsmsim.Faults{
		Latency: 10 * time.Millisecond, Limit: hsmsim.Limit{Operations: 2000, Per: 10 * time.Second}, ErrorRate: 0.25, Outage: true,
	}
	var f hsmsim.Faults
	if err := json.Unmarshal([]byte(documentedFaults), &f); err != nil || f != want {
		t.Errorf("got %+v, %v, want %+v", f, err, want)
	}
	for _, f := range []hsmsim.Faults{{}, want, {Limit: hsmsim.Limit{Per: time.Second}}} {
		b, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		var again hsmsim.Faults
		if err := json.Unmarshal(b, &again); err != nil || again != f {
			t.Errorf("%s: got %+v, %v, want %+v", b, again, err, f)
		}
	}
	for _, bad := range []string{
		``, `[]`, `{"latency":10}`, `{"latency":"ten"}`, `{"latency":"-1s"}`, `{"errorRate":-0.1}`, `{"errorRate":1.1}`,
		`{"limit":{"operations":1}}`, `{"limit":{"operations":-1,"per":"1s"}}`, `{"limit":{"operations":1,"per":"0s"}}`, `{"outages":true}`,
	} {
		f := want
		if err := json.Unmarshal([]byte(bad), &f); err == nil || f != want {
			t.Errorf("%s: got %+v, %v, want an error and no change", bad, f, err)
		}
	}
	wantError(t, hsmsim.WriteFaults(t.TempDir(), hsmsim.Faults{Latency: -1}), envelope.ErrInvalid, "correct")
}

// described returns a HSM with a key and a function that performs an operation.
func described(t testing.TB, o hsmsim.Options) (call func(context.Context) error, dir string) {
	h, dir := open(t, hsmsim.Options{})
	if _, err := h.CreateKey(context.Background(), "kek", hsmsim.AES256); err != nil {
		t.Fatal(err)
	}
	h = reopen(t, dir, o)
	return func(ctx context.Context) error { return second(h.Key(ctx, "kek", "")) }, dir
}

func TestLatency(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		call, _ := described(t, hsmsim.Options{Faults: hsmsim.Faults{Latency: time.Minute}})
		start := time.Now()
		if err := call(t.Context()); err != nil || time.Since(start) != time.Minute {
			t.Errorf("took %v, %v, want 1m", time.Since(start), err)
		}
		start = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := call(ctx)
		wantError(t, err, envelope.ErrUnreachable, "deadline")
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("took %v, %v, want the deadline's error after 1s", time.Since(start), err)
		}
		start = time.Now()
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 0 {
			t.Errorf("took %v, %v with a context that had ended", time.Since(start), err)
		}
	})
}

func TestErrorRate(t *testing.T) {
	for _, tt := range []struct {
		rate float64
		want string
	}{
		{0.25, "...x...x...x"}, {0.5, ".x.x.x.x.x.x"}, {1, "xxxxxxxxxxxx"}, {0, "............"},
	} {
		call, _ := described(t, hsmsim.Options{Faults: hsmsim.Faults{ErrorRate: tt.rate}})
		var got strings.Builder
		for range len(tt.want) {
			switch err := call(t.Context()); {
			case err == nil:
				got.WriteByte('.')
			case errors.Is(err, envelope.ErrUnreachable):
				got.WriteByte('x')
			default:
				t.Fatal(err)
			}
		}
		if got.String() != tt.want {
			t.Errorf("at %v: %s, want %s", tt.rate, got.String(), tt.want)
		}
	}
}

func TestLimit(t *testing.T) {
	c := newClock()
	o := hsmsim.Options{Now: c.now, Faults: hsmsim.Faults{Limit: hsmsim.Limit{Operations: 3, Per: 10 * time.Second}}}
	call, dir := described(t, o)
	burst := func(want int) {
		t.Helper()
		passed := 0
		for range 10 {
			err := call(t.Context())
			if err == nil {
				passed++
				continue
			}
			wantError(t, err, envelope.ErrThrottled, "later")
		}
		if passed != want {
			t.Errorf("%d operations passed, want %d", passed, want)
		}
	}
	burst(3)
	c.advance(10*time.Second - 1)
	burst(0) // the rejected ones did not count, nor do these
	c.advance(1)
	burst(3)
	c.advance(time.Hour)
	burst(3)
	c.advance(-2 * time.Hour) // a clock set back does not throttle for hours
	burst(3)
	// Another handle has a window of its own.
	if _, err := reopen(t, dir, o).Key(t.Context(), "kek", ""); err != nil {
		t.Errorf("another handle: %v", err)
	}
}

func TestFaultsFile(t *testing.T) {
	var warnings bytes.Buffer
	call, dir := described(t, hsmsim.Options{Faults: hsmsim.Faults{Outage: true}, Logger: textLogger(&warnings)})
	path := filepath.Join(dir, "faults.json")
	write := func(content string) func() error {
		return func() error { return os.WriteFile(path, []byte(content), 0o644) }
	}
	for _, step := range []struct {
		name string
		do   func() error
		want error
	}{
		{"options apply", func() error { return nil }, envelope.ErrUnreachable},
		{"a file takes their place", write(`{}`), nil},
		{"a changed file", write(`{"limit":{"operations":0,"per":"1h"}}`), envelope.ErrThrottled},
		{"one half written leaves the last good", write(`{"outage":tr`), envelope.ErrThrottled},
		{"an empty one too", write(``), envelope.ErrThrottled},
		{"WriteFaults", func() error { return hsmsim.WriteFaults(dir, hsmsim.Faults{}) }, nil},
		{"without the file the options apply again", func() error { return os.Remove(path) }, envelope.ErrUnreachable},
		{"half a file and none before it", write(`{`), envelope.ErrUnreachable},
		{"a good one", write(`{}`), nil},
		{"one that cannot be read", func() error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }, nil},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := call(t.Context()); !errors.Is(err, step.want) {
				t.Errorf("%s: %v, want %v", step.name, err, step.want)
			}
		}
	}
	if n := strings.Count(warnings.String(), "last good faults"); n != 5 {
		t.Errorf("%d warnings, want one for each of three bad files and two for the unreadable one:\n%s", n, &warnings)
	}
}
