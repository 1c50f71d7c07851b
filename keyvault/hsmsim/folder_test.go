package hsmsim_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

func TestFolderIsPrivate(t *testing.T) {
	h, dir := open(t, hsmsim.Options{})
	if _, err := h.CreateKey(t.Context(), "kek", hsmsim.AES256); err != nil {
		t.Fatal(err)
	}
	if err := hsmsim.WriteFaults(dir, hsmsim.Faults{}); err != nil {
		t.Fatal(err)
	}
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		} else {
			names = append(names, d.Name())
		}
		if got := fi.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(names, " "), "faults.json hsm.key hsm.state lock operations.log"; got != want {
		t.Errorf("the folder holds %q, want %q", got, want)
	}
}

func TestOpenRefuses(t *testing.T) {
	chmod := func(name string, mode fs.FileMode) func(testing.TB, string) {
		return func(t testing.TB, dir string) {
			if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(testing.TB, string) {
		return func(t testing.TB, dir string) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	write := func(name, content string) func(testing.TB, string) {
		return func(t testing.TB, dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name   string
		spoil  func(t testing.TB, dir string)
		open   hsmsim.Options
		class  error
		remedy string
	}{
		{name: "folder open to the group", spoil: chmod("", 0o750), class: envelope.ErrForbidden, remedy: "chmod 700"},
		{name: "state open to others", spoil: chmod("hsm.state", 0o604), class: envelope.ErrForbidden, remedy: "chmod 600"},
		{name: "key file open to the group", spoil: chmod("hsm.key", 0o640), class: envelope.ErrForbidden, remedy: "chmod 600"},
		{name: "no state", spoil: remove("hsm.state"), class: envelope.ErrCorrupt, remedy: "backup"},
		{name: "empty state", spoil: write("hsm.state", ""), class: envelope.ErrCorrupt, remedy: "backup"},
		{name: "another state", spoil: write("hsm.state", strings.Repeat("x", 1000)), class: envelope.ErrCorrupt, remedy: "backup"},
		{name: "no key file", spoil: remove("hsm.key"), class: envelope.ErrUnauthenticated, remedy: "bring back the key file"},
		{name: "another key file", spoil: write("hsm.key", strings.Repeat("0", 64)+"\n"), class: envelope.ErrUnauthenticated, remedy: "created with"},
		{name: "short key file", spoil: write("hsm.key", "00\n"), class: envelope.ErrUnauthenticated, remedy: "64 hex digits"},
		{name: "key file not in hex", spoil: write("hsm.key", strings.Repeat("g", 64)+"\n"), class: envelope.ErrUnauthenticated, remedy: "64 hex digits"},
		{name: "a passphrase for a key file", open: hsmsim.Options{Passphrase: []byte("p")}, class: envelope.ErrUnauthenticated, remedy: "KeyFile"},
		{name: "an empty passphrase", open: hsmsim.Options{Passphrase: []byte{}}, class: envelope.ErrInvalid, remedy: "set the passphrase"},
		{name: "passphrase and key file", open: hsmsim.Options{Passphrase: []byte("p"), KeyFile: "f"}, class: envelope.ErrInvalid, remedy: "choose"},
		{name: "an unknown permission", open: hsmsim.Options{Permissions: []hsmsim.Operation{"sign"}}, class: envelope.ErrInvalid, remedy: "constants"},
		{name: "impossible faults", open: hsmsim.Options{Faults: hsmsim.Faults{ErrorRate: 2}}, class: envelope.ErrInvalid, remedy: "Faults"},
		{name: "faults.json that cannot be parsed", spoil: write("faults.json", `{"latencey":"1s"}`), class: envelope.ErrInvalid, remedy: "faults.json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, dir := open(t, hsmsim.Options{})
			if _, err := h.CreateKey(t.Context(), "kek", hsmsim.AES256); err != nil {
				t.Fatal(err)
			}
			if tt.spoil != nil {
				tt.spoil(t, dir)
			}
			again, err := hsmsim.Open(dir, tt.open)
			if err == nil {
				again.Close()
			}
			wantError(t, err, tt.class, tt.remedy)
		})
	}
	t.Run("no folder given", func(t *testing.T) {
		_, err := hsmsim.Open("", hsmsim.Options{})
		wantError(t, err, envelope.ErrInvalid, "name a folder")
	})
}

// wantError checks class and remedy; every error of this package has both.
func wantError(t testing.TB, err, class error, remedy string) {
	t.Helper()
	var e *envelope.Error
	if !errors.As(err, &e) || !errors.Is(err, class) || !strings.Contains(e.Remedy, remedy) || e.Remedy == "" {
		t.Errorf("got %v, want class %q and a remedy with %q", err, class, remedy)
	}
}

// TestDamagedStateIsCorrupt flips every byte of a state file and cuts it at every
// length: never a panic, a new HSM or the claim that the key is wrong.
func TestDamagedStateIsCorrupt(t *testing.T) {
	h, dir := open(t, hsmsim.Options{})
	if _, err := h.CreateKey(t.Context(), "kek", hsmsim.AES256); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "hsm.state")
	state, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, i int, damaged []byte) {
		os.Remove(path) // truncating in place would make ext4 write to disk
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := hsmsim.Open(dir, hsmsim.Options{}); !errors.Is(err, envelope.ErrCorrupt) {
			t.Fatalf("%s %d: %v, want ErrCorrupt", what, i, err)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, damaged) {
			t.Fatalf("%s %d: Open changed the file", what, i)
		}
	}
	for i := range state {
		damaged := bytes.Clone(state)
		damaged[i] ^= 1 << (i % 8)
		check("flipped byte", i, damaged)
		check("cut to", i, state[:i])
	}
	check("extended by", 1, append(bytes.Clone(state), 0))

	// An HSM that is open meanwhile says that it cannot be used, and does not call
	// the caller's data corrupt. It goes on when the file is back.
	if _, err := h.Key(t.Context(), "kek", ""); !errors.Is(err, envelope.ErrUnreachable) || errors.Is(err, envelope.ErrCorrupt) {
		t.Errorf("an open HSM answers %v, want ErrUnreachable alone", err)
	}
	if err := os.WriteFile(path, state, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Key(t.Context(), "kek", ""); err != nil {
		t.Errorf("after the state is back: %v", err)
	}
}

// TestForgedHeader: a header that asks for too much is refused before any memory or
// time is spent, whatever its checksum.
func TestForgedHeader(t *testing.T) {
	o := hsmsim.Options{Passphrase: []byte("p")}
	h, dir := open(t, o)
	h.Close()
	path := filepath.Join(dir, "hsm.state")
	state, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		at   int
		put  []byte
	}{
		{"format version", 8, []byte{2}},
		{"key derivation", 9, []byte{3}},
		{"no passes", 26, []byte{0, 0, 0, 0}},
		{"too many passes", 26, []byte{255, 255, 255, 255}},
		{"no memory", 30, []byte{0, 0, 0, 0}},
		{"4 TiB of memory", 30, []byte{255, 255, 255, 255}},
		{"no threads", 34, []byte{0}},
		{"too many threads", 34, []byte{255}},
	} {
		forged := bytes.Clone(state[:len(state)-sha256.Size])
		copy(forged[tt.at:], tt.put)
		sum := sha256.Sum256(forged)
		if err := os.WriteFile(path, append(forged, sum[:]...), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := hsmsim.Open(dir, o); !errors.Is(err, envelope.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", tt.name, err)
		}
	}
}

func TestInterruptedCreationGoesOn(t *testing.T) {
	h, dir := open(t, hsmsim.Options{})
	h.Close()
	// What a kill leaves between the key file and the state.
	if err := os.Remove(filepath.Join(dir, "hsm.state")); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "hsm.key"))
	if err != nil {
		t.Fatal(err)
	}
	leftover := filepath.Join(dir, ".tmp-0123456789abcdef")
	if err := os.WriteFile(leftover, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	h = reopen(t, dir, hsmsim.Options{})
	if _, err := h.CreateKey(t.Context(), "kek", hsmsim.AES256); err != nil {
		t.Error(err)
	}
	if again, _ := os.ReadFile(filepath.Join(dir, "hsm.key")); !bytes.Equal(again, key) {
		t.Error("the key file was replaced")
	}
	if _, err := os.Stat(leftover); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the leftover of a killed writer is still there: %v", err)
	}
}

func TestKeyFileElsewhere(t *testing.T) {
	dir := t.TempDir()
	o := hsmsim.Options{KeyFile: filepath.Join(dir, "sealing.key")}
	// Two folders may share one file; the second finds it.
	for _, name := range []string{"a", "b", "a"} {
		reopen(t, filepath.Join(dir, name), o)
	}
	if _, err := os.Stat(filepath.Join(dir, "a", "hsm.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key file lies in the folder too: %v", err)
	}
	_, err := hsmsim.Open(filepath.Join(dir, "a"), hsmsim.Options{KeyFile: filepath.Join(dir, "missing.key")})
	wantError(t, err, envelope.ErrUnauthenticated, "bring back the key file")
	_, err = hsmsim.Open(filepath.Join(dir, "c"), hsmsim.Options{KeyFile: filepath.Join(dir, "no such folder", "k")})
	wantError(t, err, envelope.ErrUnreachable, "check the key file")
}

func TestPassphrase(t *testing.T) {
	o := hsmsim.Options{Passphrase: []byte("correct horse")}
	h, dir := open(t, o)
	v, err := h.CreateKey(t.Context(), "kek", hsmsim.AES256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "hsm.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key file lies in the folder: %v", err)
	}
	if got, err := reopen(t, dir, o).Key(t.Context(), "kek", ""); err != nil || got != v {
		t.Errorf("after reopening: %+v, %v, want %+v", got, err, v)
	}
	_, err = hsmsim.Open(dir, hsmsim.Options{Passphrase: []byte("wrong horse")})
	wantError(t, err, envelope.ErrUnauthenticated, "the passphrase or key file that")
	_, err = hsmsim.Open(dir, hsmsim.Options{})
	wantError(t, err, envelope.ErrUnauthenticated, "give the passphrase")
}

// TestFailedWriteChangesNothing, neither on disk nor in the handle that tried.
func TestFailedWriteChangesNothing(t *testing.T) {
	h, dir := open(t, hsmsim.Options{})
	ctx := t.Context()
	want, err := h.CreateKey(ctx, "kek", hsmsim.AES256)
	if err != nil {
		t.Fatal(err)
	}
	for name, write := range map[string]func() error{
		"a date that JSON cannot hold":       func() error { return h.SetExpiry(ctx, "kek", "", time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)) },
		"a state too large to be read again": func() error { return h.Outgrow(ctx, "kek") },
	} {
		wantError(t, write(), envelope.ErrUnreachable, "folder")
		for _, h := range []*hsmsim.HSM{h, reopen(t, dir, hsmsim.Options{})} {
			got, err := h.Key(ctx, "kek", "")
			if err != nil || got != want {
				t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
			}
			if _, err := mustKEK(t, h, hsmsim.Ref{Name: "kek"}).Wrap(ctx, make([]byte, 32)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestClosed(t *testing.T) {
	h, dir := open(t, hsmsim.Options{})
	if _, err := h.CreateKey(t.Context(), "kek", hsmsim.AES256); err != nil {
		t.Fatal(err)
	}
	kek := mustKEK(t, h, hsmsim.Ref{Name: "kek"})
	before := len(readLog(t, dir))
	for range 2 {
		if err := h.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	_, err := kek.Wrap(t.Context(), make([]byte, 32))
	wantError(t, err, envelope.ErrInvalid, "open the HSM again")
	if n := len(readLog(t, dir)) - before; n != 0 {
		t.Errorf("a closed HSM wrote %d lines of log", n)
	}
}

// TestReplacedFolder: an HSM that was swapped under an open handle is not taken for
// the old one, whose key ids it would answer with other keys.
func TestReplacedFolder(t *testing.T) {
	h, dir := open(t, hsmsim.Options{})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	other := reopen(t, dir, hsmsim.Options{})
	if _, err := other.CreateKey(t.Context(), "kek", hsmsim.AES256); err != nil {
		t.Fatal(err)
	}
	_, err := h.Key(t.Context(), "kek", "")
	wantError(t, err, envelope.ErrUnreachable, "folder")
}
