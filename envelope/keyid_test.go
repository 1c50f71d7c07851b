package envelope_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/keyfold/keyfold/envelope"
)

const family = "3f9ac81b7d02e456"

func TestKeyID(t *testing.T) {
	for s, want := range map[string]envelope.KeyID{
		family + "/v":                           {Family: family, Version: "v"},
		family + "/0f5d3c-A_Z.1":                {Family: family, Version: "0f5d3c-A_Z", Epoch: 1},
		family + "/v.4294967295":                {Family: family, Version: "v", Epoch: 1<<32 - 1},
		family + "/" + strings.Repeat("9", 64):  {Family: family, Version: strings.Repeat("9", 64)},
		"0000000000000000/ffffffffffffffff.100": {Family: "0000000000000000", Version: "ffffffffffffffff", Epoch: 100},
	} {
		got, err := envelope.ParseKeyID(s)
		if err != nil || got != want || want.String() != s {
			t.Errorf("%q: %+v, %v; and %+v writes %q", s, got, err, want, want.String())
		}
	}
}

func TestKeyIDRefused(t *testing.T) {
	for _, s := range []string{
		"", "/", family, family + "/", family + "v", "/v",
		family[1:] + "/v", family + "0/v", strings.ToUpper(family) + "/v", "g" + family[1:] + "/v", "3f9ac81b-d02e456/v",
		family + "/v.", family + "/v.0", family + "/v.01", family + "/v.+1", family + "/v.-1", family + "/v.1.1",
		family + "/v.4294967296", family + "/v.1 ", family + "/v.0x1", family + "/v.1_0",
		family + "/a/b", family + "/../v", family + "/a b", family + "/ä", family + "/v\n", family + "/v\x00",
		family + "/" + strings.Repeat("9", 65),
	} {
		id, err := envelope.ParseKeyID(s)
		if !errors.Is(err, envelope.ErrUnknownKey) || id != (envelope.KeyID{}) {
			t.Errorf("%q: %+v, %v; want ErrUnknownKey", s, id, err)
		}
	}
}

// A family must never change its value: stored data names it. Where the parts
// are cut matters as well.
func TestFamily(t *testing.T) {
	if f := envelope.Family("hsmsim", "place", "name"); f != "5c119635140c8e28" {
		t.Errorf("the family of hsmsim, place, name is now %s", f)
	}
	seen := make(map[string]bool)
	for _, parts := range [][3]string{{"a", "b", "c"}, {"ab", "", "c"}, {"", "ab", "c"}, {"a", "bc", ""}, {"", "", "abc"}, {"c", "b", "a"}} {
		f := envelope.Family(parts[0], parts[1], parts[2])
		if seen[f] || len(f) != envelope.FamilySize {
			t.Errorf("%q: family %s", parts, f)
		}
		seen[f] = true
		if _, err := envelope.ParseKeyID(f + "/v"); err != nil {
			t.Error(err)
		}
	}
}
