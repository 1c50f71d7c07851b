package envelope_test

import (
	"context"
	"testing"

	"github.com/keyfold/keyfold/envelope"
)

// described has a capability that decorators would hide.
type described struct{ *memKEK }

func (described) Describe(context.Context) (envelope.KeyInfo, error) {
	return envelope.KeyInfo{ID: "described"}, nil
}

type decorator struct{ envelope.KEK }

func (d decorator) Underlying() envelope.KEK { return d.KEK }

type closed struct{ envelope.KEK } // hides what it wraps and does not say so

func TestAs(t *testing.T) {
	inner := described{newKEK("kek")}
	for name, test := range map[string]struct {
		k    any
		want bool
	}{
		"itself":           {inner, true},
		"one decorator":    {decorator{inner}, true},
		"two decorators":   {decorator{decorator{inner}}, true},
		"not a decorator":  {closed{inner}, false},
		"without":          {decorator{newKEK("kek")}, false},
		"end of the chain": {decorator{}, false},
		"nil":              {nil, false},
		"no KEK at all":    {42, false},
	} {
		d, ok := envelope.As[envelope.Describer](test.k)
		if ok != test.want {
			t.Errorf("%s: found %v, want %v", name, ok, test.want)
			continue
		}
		if ok {
			if info, err := d.Describe(t.Context()); err != nil || info.ID != "described" {
				t.Errorf("%s: %+v, %v", name, info, err)
			}
		}
	}
}

func TestRequestID(t *testing.T) {
	if id := envelope.RequestID(t.Context()); id != "" {
		t.Errorf("an id from nowhere: %q", id)
	}
	ctx := envelope.WithRequestID(t.Context(), "42")
	if id := envelope.RequestID(ctx); id != "42" {
		t.Errorf("%q, want 42", id)
	}
}
