package hsmsim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

func TestOperationsLog(t *testing.T) {
	c := newClock()
	h, dir := open(t, hsmsim.Options{Now: c.now})
	ctx := envelope.WithRequestID(t.Context(), "r-1")
	v, err := h.CreateKey(ctx, "kek", hsmsim.AES256)
	if err != nil {
		t.Fatal(err)
	}
	kek := mustKEK(t, h, hsmsim.Ref{Name: "kek"})
	w, err := kek.Wrap(ctx, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kek.Unwrap(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	flipped := envelope.WrappedKey{KeyID: w.KeyID, Algorithm: w.Algorithm, Blob: bytes.Clone(w.Blob)}
	flipped.Blob[0] ^= 1
	kek.Unwrap(ctx, flipped)
	kek.Unwrap(ctx, envelope.WrappedKey{KeyID: "another's"}) // no operation
	h.SetEnabled(ctx, "kek", "", false)
	kek.Wrap(ctx, make([]byte, 32))
	h.Keys(ctx)
	h.Key(ctx, "none", "")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	h.Rotate(ended, "kek")

	var got []string
	for _, e := range readLog(t, dir) {
		if !e.Time.Equal(c.now()) || e.PID != os.Getpid() {
			t.Errorf("time %v, pid %d", e.Time, e.PID)
		}
		got = append(got, strings.ReplaceAll(fmt.Sprintf("%s %s/%s %s %s", e.Operation, e.Key, e.Version, e.RequestID, e.Result), v.Version, "V"))
	}
	want := []string{
		"create kek/V r-1 ok",
		"wrapKey kek/V r-1 ok",
		"unwrapKey kek/V  ok",
		"unwrapKey kek/V r-1 corrupt",
		"update kek/V r-1 ok",
		"wrapKey kek/V r-1 disabled",
		"list / r-1 ok",
		"get none/ r-1 deleted",
		"rotate kek/ r-1 canceled",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestLogRotates fills the log to its limit: two handles move on to a new file,
// and what they write before and after is read back in order.
func TestLogRotates(t *testing.T) {
	a, dir := open(t, hsmsim.Options{})
	b := reopen(t, dir, hsmsim.Options{})
	ctx := t.Context()
	if _, err := a.CreateKey(ctx, "kek", hsmsim.AES256); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*hsmsim.HSM{a, b} {
		if _, err := h.Key(ctx, "kek", ""); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "operations.log")
	line := []byte(`{"op":"filler","result":"` + strings.Repeat("x", 60_000) + `"}` + "\n")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	fillers := 16<<20/len(line) + 1
	for range fillers {
		if _, err := f.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	for _, h := range []*hsmsim.HSM{a, b, a} {
		if _, err := h.Versions(ctx, "kek"); err != nil {
			t.Fatal(err)
		}
	}
	count := map[hsmsim.Operation]int{}
	for _, e := range readLog(t, dir) {
		count[e.Operation]++
	}
	if count["create"] != 1 || count["get"] != 2 || count["filler"] != fillers || count["list"] != 3 {
		t.Errorf("operations read back: %v", count)
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() > 1000 {
		t.Errorf("the new log: %v, %v", fi, err)
	}

	// A reader may stop early.
	n := 0
	for range hsmsim.ReadLog(dir) {
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("read %d entries", n)
	}

	// An operator who removes the log starts a new one.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Key(ctx, "kek", ""); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || bytes.Count(b, []byte("\n")) != 1 {
		t.Errorf("after removal: %q, %v", b, err)
	}
}

// TestLogRotatedByAnother: a handle goes on in the log that another has begun.
func TestLogRotatedByAnother(t *testing.T) {
	h, dir := open(t, hsmsim.Options{})
	other := reopen(t, dir, hsmsim.Options{})
	log := filepath.Join(dir, "operations.log")
	if _, err := h.CreateKey(t.Context(), "kek", hsmsim.AES256); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*hsmsim.HSM{other, h} {
		if _, err := h.Keys(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(log)
	if n := bytes.Count(b, []byte("\n")); err != nil || n != 2 {
		t.Errorf("%d lines in the new log, want 2; %v", n, err)
	}
}

// TestLogThatCannotBeWritten stops nothing and is reported.
func TestLogThatCannotBeWritten(t *testing.T) {
	var warnings bytes.Buffer
	h, dir := open(t, hsmsim.Options{Logger: textLogger(&warnings)})
	if err := os.Mkdir(filepath.Join(dir, "operations.log"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := h.CreateKey(t.Context(), "kek", hsmsim.AES256); err != nil {
		t.Error(err)
	}
	if !strings.Contains(warnings.String(), "operations log cannot be written") {
		t.Errorf("logged %q", &warnings)
	}
	for _, err := range hsmsim.ReadLog(dir) {
		wantError(t, err, envelope.ErrCorrupt, "away")
	}
}

func TestReadLogReportsDamage(t *testing.T) {
	dir := t.TempDir()
	for range hsmsim.ReadLog(dir) {
		t.Error("an entry out of no log")
	}
	good := `{"op":"get","result":"ok"}` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "operations.log"), []byte(good+"not JSON\n"+good), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	for e, err := range hsmsim.ReadLog(dir) {
		got = append(got, fmt.Sprint(e.Operation, errors.Is(err, envelope.ErrCorrupt)))
	}
	if strings.Join(got, " ") != "getfalse true getfalse" {
		t.Errorf("got %q", got)
	}
}
