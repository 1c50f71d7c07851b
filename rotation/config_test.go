package rotation_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/rotation"
)

func TestConfigIsValidated(t *testing.T) {
	v := newVault()
	a1, a2, b := v.key("a", "1"), v.key("a", "2"), v.key("b", "1")
	var none *own
	foreign := &own{id: "x"}
	for name, tt := range map[string]struct {
		cfg  rotation.Config
		says string
	}{
		"no current":             {rotation.Config{}, "current has no key"},
		"a nil pointer":          {one(none), "current has no key"},
		"previous without key":   {two(a2, nil), "previous has no key"},
		"read without key":       {rotation.Config{Current: rotation.Key{KEK: a1}, Read: []rotation.Key{{KEK: b}, {}}}, "read[1] has no key"},
		"activateAt alone":       {rotation.Config{Current: rotation.Key{KEK: a1}, ActivateAt: time.Now()}, "no previous"},
		"current is previous":    {two(a1, v.key("a", "1")), "same key"},
		"the same unknown id":    {two(foreign, foreign), "same key"},
		"a read key twice":       {rotation.Config{Current: rotation.Key{KEK: a1}, Read: []rotation.Key{{KEK: b}, {KEK: v.key("b", "1"), Epoch: 1}}}, "read[1] repeats"},
		"epoch without families": {rotation.Config{Current: rotation.Key{KEK: &identifiedOwn{own{id: "x"}}, Epoch: 1}}, "epoch"},
	} {
		_, err := rotation.New(tt.cfg, rotation.Options{})
		typed, ok := errors.AsType[*envelope.Error](err)
		if !ok || !errors.Is(err, envelope.ErrInvalid) || typed.Remedy == "" || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v; want invalid, with a remedy, saying %q", name, err, tt.says)
		}
	}
	for name, cfg := range map[string]rotation.Config{
		"alone":                   one(a1),
		"the same, another epoch": {Current: rotation.Key{KEK: a1, Epoch: 1}, Previous: &rotation.Key{KEK: v.key("a", "1")}},
		"read key already in use": {Current: rotation.Key{KEK: b}, Previous: &rotation.Key{KEK: a1}, Read: []rotation.Key{{KEK: b}}},
		"two versions to read":    {Current: rotation.Key{KEK: b}, Read: []rotation.Key{{KEK: a1}, {KEK: a2}}},
	} {
		if _, err := rotation.New(cfg, rotation.Options{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, o := range map[string]rotation.Options{"interval": {ProbeInterval: -1}, "time-out": {ProbeTimeout: -1}} {
		if _, err := rotation.New(one(a1), o); !errors.Is(err, envelope.ErrInvalid) {
			t.Errorf("negative %s: %v", name, err)
		}
	}
	if n := v.calls(); n != 0 {
		t.Errorf("validation called the vault %d times", n)
	}
}
