package kmstest

import (
	"context"
	"errors"
	"testing"
	"time"

	"k8s.io/kms/pkg/service"
)

// Options tell the kit what it cannot find out through the API. The zero value runs
// every rule that needs no help.
type Options struct {
	// CallTimeout bounds each call; zero means 3 s, as API servers do (row 2).
	CallTimeout time.Duration
	// Settle is how long the plugin may take to show the effect of a hook; zero
	// means one minute, the interval at which API servers poll Status (row 13).
	Settle time.Duration

	// Rotate makes another key version current, as the plugin's operator would. It
	// is called twice.
	Rotate func(ctx context.Context) error
	// Restart stops the plugin and starts it again with the same configuration,
	// keys and endpoint.
	Restart func(ctx context.Context) error
	// Revoke takes the current key away, as disabling or deleting it would, and
	// Restore gives it back.
	Revoke, Restore func(ctx context.Context) error
}

func (o Options) withDefaults() Options {
	if o.CallTimeout == 0 {
		o.CallTimeout = 3 * time.Second
	}
	if o.Settle == 0 {
		o.Settle = time.Minute
	}
	return o
}

// Outcome is the verdict on one rule.
type Outcome string

const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped"
)

// Result is what one rule found.
type Result struct {
	Rule    Rule
	Outcome Outcome
	// Err is the violation, or why the rule was skipped; nil if it passed.
	Err error
	// Notes are measurements and observations that the contract leaves open.
	Notes []string
}

// Run checks the plugin that listens on endpoint ("unix:///path", "unix:///@name"),
// one subtest for each rule.
func Run(t *testing.T, endpoint string, o Options) {
	t.Helper()
	client, err := Dial(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	RunService(t, client, o)
}

// RunService checks svc, one subtest for each rule. Rules about the socket are
// skipped unless svc is a [Client].
func RunService(t *testing.T, svc service.Service, o Options) {
	t.Helper()
	s := newSubject(svc, o)
	for _, r := range rules {
		t.Run(r.Name, func(t *testing.T) {
			result := s.judge(t.Context(), r)
			for _, note := range result.Notes {
				t.Log(note)
			}
			switch result.Outcome {
			case Failed:
				t.Errorf("%v\nrule %s (contract row %d): %s", result.Err, r.Name, r.Row, r.Text)
			case Skipped:
				t.Skip(result.Err)
			}
		})
	}
}

// Check judges svc by every rule, in order, and returns one result for each.
func Check(ctx context.Context, svc service.Service, o Options) []Result {
	s := newSubject(svc, o)
	results := make([]Result, 0, len(rules))
	for _, r := range rules {
		results = append(results, s.judge(ctx, r))
	}
	return results
}

// judge applies one rule. After a plugin was found unreachable the rest is skipped:
// each rule would only wait for its time-outs to say the same.
func (s *subject) judge(ctx context.Context, r rule) Result {
	s.notes = nil
	err := s.unreachable
	if err == nil {
		err = r.check(ctx, s)
	}
	result := Result{Rule: r.Rule, Outcome: Passed, Err: err, Notes: s.notes}
	var skip skipError
	switch {
	case errors.As(err, &skip):
		result.Outcome = Skipped
	case err != nil:
		result.Outcome = Failed
	}
	return result
}

// skipError is why a rule cannot be judged.
type skipError string

func (e skipError) Error() string { return "not checked: " + string(e) }
