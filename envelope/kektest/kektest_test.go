package kektest_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/envelope/kektest"
	"github.com/keyfold/keyfold/internal/bubble"
)

func TestRunPassesACorrectKEK(t *testing.T) {
	kektest.Run(t, func(*testing.T) kektest.Subject {
		v := newVault("kek")
		return v.subject(memKEK{vault: v})
	})
}

// opaque hides everything but Wrap and Unwrap; decorator shows what it hides.
type opaque struct{ envelope.KEK }

type decorator struct{ envelope.KEK }

func (d decorator) Underlying() envelope.KEK { return d.KEK }

// TestSkipped checks that exactly what a subject lacks is left out, and named.
func TestSkipped(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault("kek")
		pinned, err := memKEK{vault: v}.Pin(v.versions[0].id.Version)
		if err != nil {
			t.Fatal(err)
		}
		bare := kektest.Subject{KEK: opaque{memKEK{vault: v}}, Foreign: memKEK{vault: newVault("foreign")}}
		for _, tt := range []struct {
			name    string
			subject kektest.Subject
			want    map[string]string // check: what its message names
		}{
			{"everything", v.subject(pinned), nil},
			{"behind decorators", v.subject(decorator{decorator{pinned}}), nil},
			{"versionless", v.subject(memKEK{vault: v}), map[string]string{"identifier": "capability envelope.Identifier"}},
			{"bare", bare, map[string]string{
				"foreign-key-without-a-call": "hook Calls",
				"stalled":                    "hook Stall",
				"disabled":                   "hook Disable",
				"expired":                    "hook Expire",
				"not-yet-valid":              "hook NotYetValid",
				"deleted":                    "hook Delete",
				"forbidden":                  "hook Forbid",
				"throttled":                  "hook Throttle",
				"outage":                     "hook Outage",
				"identifier":                 "capability envelope.Identifier",
				"family":                     "capability envelope.FamilyIdentifier",
				"describer":                  "capability envelope.Describer",
				"versions":                   "capability envelope.VersionLister",
				"pinner":                     "capability envelope.Pinner",
				"prober":                     "capability envelope.Prober",
				"prober-outage":              "capability envelope.Prober, no hook Outage",
				"prober-disabled":            "capability envelope.Prober, no hook Disable",
				"rotation":                   "hook Rotate",
			}},
		} {
			for _, r := range kektest.Check(t.Context(), tt.subject) {
				if r.Err != nil {
					t.Errorf("%s: %s: %v", tt.name, r.Name, r.Err)
				}
				if want := tt.want[r.Name]; (r.Skipped == "") != (want == "") || !strings.HasSuffix(r.Skipped, want) {
					t.Errorf("%s: %s: skipped %q, want it to name %q", tt.name, r.Name, r.Skipped, want)
				}
			}
		}
	})
}

// TestUnversionedIDs: a back end of somebody else's may use any string as key id.
func TestUnversionedIDs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		plain := func(name string) envelope.KEK {
			v := newVault(name)
			return faulty{
				memKEK: memKEK{vault: v},
				wrap: func(ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
					w, err := right(ctx, dek)
					w.KeyID = name
					return w, err
				},
				unwrap: func(ctx context.Context, w envelope.WrappedKey, right unwrapFunc) ([]byte, error) {
					if w.KeyID != name {
						return nil, envelope.ErrUnknownKey
					}
					w.KeyID = v.versions[0].id.String()
					return right(ctx, w)
				},
			}
		}
		for _, r := range kektest.Check(t.Context(), kektest.Subject{KEK: opaque{plain("mine")}, Foreign: plain("yours")}) {
			if r.Err != nil {
				t.Errorf("%s: %v", r.Name, r.Err)
			}
			if r.Name == "unknown-version" && !strings.Contains(r.Skipped, "FAMILY/VERSION") {
				t.Errorf("%s: skipped %q", r.Name, r.Skipped)
			}
		}
	})
}

// TestEveryCheckCatches shows that each check fails for a KEK with the mistake that
// it is there for. The bubble's clock makes hanging KEKs quick.
func TestEveryCheckCatches(t *testing.T) {
	caught := map[string]bool{}
	for _, tt := range brokenKEKs() {
		t.Run(tt.check+"/"+tt.mistake, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				v := newVault("kek")
				s := v.subject(tt.make(v))
				results := kektest.Check(t.Context(), s)
				i := slices.IndexFunc(results, func(r kektest.Result) bool { return r.Name == tt.check })
				if i < 0 {
					t.Fatalf("there is no check %q", tt.check)
				}
				if results[i].Err == nil {
					t.Errorf("not caught (skipped: %q)", results[i].Skipped)
				}
				caught[tt.check] = true
				time.Sleep(48 * time.Hour) // in the bubble: calls that hang come to their end
			})
		})
	}
	v := newVault("kek")
	for _, r := range kektest.Check(t.Context(), kektest.Subject{KEK: memKEK{vault: v}, Foreign: memKEK{vault: newVault("foreign")}}) {
		if !caught[r.Name] {
			t.Errorf("no broken KEK shows that check %q catches anything", r.Name)
		}
	}
}

// TestStateEndsWithAPanic: a KEK that panics in one state has that checked and the
// others too.
func TestStateEndsWithAPanic(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		v := newVault("kek")
		k := faulty{memKEK: memKEK{vault: v}, wrap: func(ctx context.Context, dek []byte, right wrapFunc) (envelope.WrappedKey, error) {
			w, err := right(ctx, dek)
			if errors.Is(err, envelope.ErrThrottled) {
				panic("out of patience")
			}
			return w, err
		}}
		for _, r := range kektest.Check(t.Context(), v.subject(k)) {
			if (r.Err != nil) != (r.Name == "throttled") {
				t.Errorf("%s: %v", r.Name, r.Err)
			}
		}
	})
}
