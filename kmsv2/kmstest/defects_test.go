package kmstest_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyfold/keyfold/internal/bubble"
	"github.com/keyfold/keyfold/kmsv2/kmstest"
)

// defect is one way to break the contract: what was built, and the rules that catch
// it, the one that it stands for first.
type defect struct {
	built  string
	caught []string
	bend   func(b *bent, o *kmstest.Options)
}

var defects = slices.Concat(defectiveAnswers, defectiveReading, defectiveManners, defectiveLives)

// TestDefects: each defect is caught by the rules that it breaks and by no other.
func TestDefects(t *testing.T) {
	for _, d := range defects {
		t.Run(strings.ReplaceAll(d.built, " ", "_"), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				m := newMemory()
				b, o := &bent{memory: m}, m.options()
				d.bend(b, &o)
				// Calls that hang do so until some hour of the fake clock, and the
				// bubble must not end before they do.
				defer time.Sleep(2 * time.Hour)
				results := kmstest.Check(t.Context(), b, o)
				want := slices.Sorted(slices.Values(d.caught))
				if got := failed(results); !slices.Equal(got, want) {
					t.Errorf("caught by %q, want %q", got, want)
					for _, r := range results {
						if r.Outcome == kmstest.Failed {
							t.Logf("%s: %v", r.Rule.Name, r.Err)
						}
					}
				}
			})
		})
	}
}

// TestEveryRuleCatchesSomething: a rule that nothing breaks is a rule that may check
// nothing.
func TestEveryRuleCatchesSomething(t *testing.T) {
	caught := map[string]bool{"wire-garbage": true} // TestFragileListener
	for _, d := range defects {
		caught[d.caught[0]] = true
	}
	for _, r := range kmstest.Rules() {
		if !caught[r.Name] {
			t.Errorf("no defect stands for %s", r.Name)
		}
		delete(caught, r.Name)
	}
	if len(caught) > 0 {
		t.Errorf("there are no such rules: %v", slices.Collect(maps.Keys(caught)))
	}
}

func failed(results []kmstest.Result) []string {
	var names []string
	for _, r := range results {
		if r.Outcome == kmstest.Failed {
			names = append(names, r.Rule.Name)
		}
	}
	slices.Sort(names)
	return names
}
