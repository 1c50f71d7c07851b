package kektest

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

const (
	// checkTimeout bounds one check, so that a KEK that hangs fails it and not
	// the whole test binary.
	checkTimeout = time.Minute
	// patience is how long after the end of its context a call may take. It is
	// generous, since only "returns" and "does not return" are to be told apart.
	patience = 10 * time.Second
)

// A Hook brings the back end into a state and returns how to end it. undo is
// called once. Both concern the key version that Subject.KEK wraps under.
type Hook func(ctx context.Context) (undo func() error, err error)

// Subject is a KEK to be checked. KEK and Foreign are required.
type Subject struct {
	// KEK is the subject.
	KEK envelope.KEK
	// Foreign is a KEK of the same kind with another key.
	Foreign envelope.KEK

	// Disable disables the key, Expire lets it expire, NotYetValid makes it one
	// of the future, Delete deletes it.
	Disable, Expire, NotYetValid, Delete Hook
	// Forbid takes the permissions to wrap and unwrap away, Throttle lets the
	// back end refuse everything for being too much, Outage makes it unreachable.
	Forbid, Throttle, Outage Hook
	// Stall lets the back end accept calls and not answer them.
	Stall Hook
	// Rotate gives the key a new version. It need not be undone.
	Rotate func(ctx context.Context) error
	// Calls returns how many calls have reached the back end so far. What must
	// not call it (another's key, KeyID, Pin) is then known not to.
	Calls func() int
}

// Result is the outcome of one check: passed if Skipped is empty and Err nil.
type Result struct {
	// Name is one of those that the package comment lists.
	Name string
	// Skipped names the hook or the capability that is missing.
	Skipped string
	// Err is what the check found.
	Err error
}

// check is one row of the suite.
type check struct {
	name  string
	needs []need
	run   func(ctx context.Context, s Subject) error
}

// need returns what a subject lacks, or "".
type need func(s Subject) string

// checks returns the suite in order: rotation changes the subject and comes last.
func checks() []check {
	var all []check
	for _, group := range [][]check{dekChecks(), storedDataChecks(), contextChecks(), stateChecks(), capabilityChecks()} {
		all = append(all, group...)
	}
	return all
}

// Run runs the suite on one subject, a subtest for each check.
func Run(t *testing.T, newSubject func(t *testing.T) Subject) {
	t.Helper()
	s := newSubject(t)
	if s.KEK == nil || s.Foreign == nil {
		t.Fatal("kektest: Subject needs KEK and Foreign")
	}
	for _, c := range checks() {
		t.Run(c.name, func(t *testing.T) {
			switch r := c.result(t.Context(), s); {
			case r.Skipped != "":
				t.Skip(r.Skipped)
			case r.Err != nil:
				t.Error(r.Err)
			}
		})
	}
}

// Check runs the suite on s and returns a result for each check, in order.
func Check(ctx context.Context, s Subject) []Result {
	var results []Result
	for _, c := range checks() {
		results = append(results, c.result(ctx, s))
	}
	return results
}

// result runs a check in a goroutine of its own, which a KEK that hangs keeps.
func (c check) result(ctx context.Context, s Subject) Result {
	var missing []string
	for _, n := range c.needs {
		if m := n(s); m != "" {
			missing = append(missing, m)
		}
	}
	if len(missing) > 0 {
		return c.skipped(strings.Join(missing, ", no "))
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- recovered(func() error { return c.run(ctx, s) }) }()
	overdue := time.NewTimer(checkTimeout + patience)
	defer overdue.Stop()
	select {
	case err := <-done:
		if missing, ok := err.(skip); ok {
			return c.skipped(string(missing))
		}
		return Result{Name: c.name, Err: err}
	case <-overdue.C:
		return Result{Name: c.name, Err: fmt.Errorf("a call did not return within %v of the end of its context", patience)}
	}
}

// recovered calls f, which runs in a goroutine of the suite's own: there, a KEK that
// panics would end the test binary.
func recovered(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}

func (c check) skipped(missing string) Result {
	return Result{Name: c.name, Skipped: "not checked: the subject has no " + missing}
}

// skip is how a check that has begun reports what the subject lacks.
type skip string

func (s skip) Error() string { return string(s) }

func hook(name string, get func(Subject) Hook) need {
	return func(s Subject) string {
		if get(s) == nil {
			return "hook " + name
		}
		return ""
	}
}

func capability[T any](name string) need {
	return func(s Subject) string {
		if _, ok := envelope.As[T](s.KEK); !ok {
			return "capability envelope." + name
		}
		return ""
	}
}

func needCalls(s Subject) string {
	if s.Calls == nil {
		return "hook Calls"
	}
	return ""
}

func needRotate(s Subject) string {
	if s.Rotate == nil {
		return "hook Rotate"
	}
	return ""
}
