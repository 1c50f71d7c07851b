package main

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestStory runs the program and checks that what it teaches is true.
func TestStory(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	var out bytes.Buffer
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	text := out.String()

	// What the HSM was asked to do, chapter by chapter.
	if got, want := facts(text, "HSM's log"), []string{
		"1 create",
		"1 wrapKey",              // a thousand letters
		"1 unwrapKey",            // and read again
		"1 rotate, 1 unwrapKey",  // an old letter still opens
		"1 unwrapKey, 1 wrapKey", // rewrapped
		"1 update, 1 unwrapKey, 1 unwrapKey (refused: disabled)",
	}; !slices.Equal(got, want) {
		t.Errorf("the HSM was asked\n%q, want\n%q", got, want)
	}

	// The new KEK is another version of the same key, and rewrapping moved the same
	// DEK from the one to the other.
	oldKEK, newKEK := one(t, text, "old KEK"), one(t, text, "new KEK")
	family, _, _ := strings.Cut(oldKEK, "/")
	if oldKEK == newKEK || !strings.HasPrefix(newKEK, family+"/") {
		t.Errorf("old KEK %s, new KEK %s", oldKEK, newKEK)
	}
	dek := regexp.MustCompile(`DEK [0-9a-f]{8}`).FindString(text)
	if before := one(t, text, "before"); before != dek+" under KEK "+oldKEK {
		t.Errorf("before rewrapping: %s", before)
	}
	if after := one(t, text, "after"); after != dek+" under KEK "+newKEK {
		t.Errorf("after rewrapping: %s", after)
	}

	for _, name := range []string{"moved", "changed"} {
		if got := one(t, text, name); !strings.Contains(got, "not authentic") {
			t.Errorf("a letter that was %s: %s", name, got)
		}
	}
	if got := one(t, text, "letters/0000"); got != `"Dear customer 0000, your PIN is 9999."` {
		t.Errorf("the rewrapped letter: %s", got)
	}
	if got := one(t, text, "letters/0001"); !strings.Contains(got, "key disabled; remedy: ") {
		t.Errorf("the letter left behind: %s", got)
	}

	left, err := os.ReadDir(tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// facts returns what was printed under a name.
func facts(text, name string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^    `+regexp.QuoteMeta(name)+` {2,}(.*)$`).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

func one(t *testing.T, text, name string) string {
	t.Helper()
	all := facts(text, name)
	if len(all) != 1 {
		t.Fatalf("%d facts called %q", len(all), name)
	}
	return all[0]
}
