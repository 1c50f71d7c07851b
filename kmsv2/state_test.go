package kmsv2_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
	"github.com/keyfold/keyfold/kmsv2"
	"github.com/keyfold/keyfold/rotation"
)

const stateName = "dek.json"

func TestStateFile(t *testing.T) {
	v := newVault(t)
	folder := filepath.Join(t.TempDir(), "deep", "state")
	p := start(t, setup{ring: v.current(v.key("kek")), options: kmsv2.Options{StateDir: folder}})
	p.status() // once it has answered, a kill loses nothing
	p.stop()
	for path, want := range map[string]os.FileMode{folder: os.ModeDir | 0o700, filepath.Join(folder, stateName): 0o600} {
		info, err := os.Lstat(path)
		must(t, err)
		if info.Mode() != want {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
	entries, err := os.ReadDir(folder)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("%d files in the state folder", len(entries))
	}
}

// The reason why there is state: an API server that starts while the KEK is
// expired must be able to read, and for that it must be able to write.
func TestRestartWhileExpired(t *testing.T) {
	for _, name := range []string{"expired", "not yet valid"} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				v := newVault(t)
				ref := v.key("kek")
				s := setup{ring: v.current(ref), options: kmsv2.Options{StateDir: t.TempDir()}}
				p := start(t, s)
				id := p.status()
				r := p.encrypt("before")
				dek := p.Snapshot().DEK.ID
				p.stop()
				if name == "expired" {
					v.expire(ref, time.Now().Add(-time.Hour))
				} else {
					must(t, v.hsm.SetNotBefore(context.Background(), ref.Name, ref.Version, time.Now().Add(time.Hour)))
				}

				p = start(t, s)
				if got := p.status(); got != id {
					t.Errorf("Status = %q after the restart", got)
				}
				if got := p.Snapshot().DEK.ID; got != dek {
					t.Errorf("another DEK %s than %s", got, dek)
				}
				p.opens(r, "before")
				p.opens(p.encrypt("after"), "after")
				pass(time.Minute)
				if !strings.Contains(p.log.String(), "KEY EXPIRED OR NOT YET VALID") {
					t.Error("no loud warning")
				}
			})
		})
	}
}

// An outage at the very start, while the KEK is expired: the saved DEK is neither
// given up nor called bad, and serves as soon as the vault answers.
func TestRestartWhileExpiredAndUnreachable(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		ref := v.key("kek")
		s := setup{ring: v.current(ref), options: kmsv2.Options{StateDir: t.TempDir()}}
		p := start(t, s)
		id := p.status()
		p.stop()
		v.expire(ref, time.Now().Add(-time.Hour))
		v.outage(true)
		p = start(t, s)
		_, err := p.Status(within(t, 3*time.Second))
		wantClass(t, err, envelope.ErrUnreachable)
		pass(time.Minute)
		v.outage(false)
		pass(time.Minute)
		if got := p.status(); got != id {
			t.Errorf("Status = %q", got)
		}
		if strings.Contains(p.log.String(), "IGNORING") {
			t.Error("the saved DEK was called bad")
		}
	})
}

// A restart costs one unwrap and makes no new DEK.
func TestRestartResumes(t *testing.T) {
	v := newVault(t)
	for name, ref := range map[string]hsmsim.Ref{"pinned": v.key("kek"), "versionless": {Name: "kek"}} {
		s := setup{ring: v.current(ref), options: kmsv2.Options{StateDir: t.TempDir()}}
		p := start(t, s)
		p.status()
		dek := p.Snapshot().DEK.ID
		p.stop()
		for range 3 {
			p := start(t, s)
			p.status()
			if got := p.Snapshot().DEK.ID; got != dek {
				t.Errorf("%s: DEK %s after a restart, not %s", name, got, dek)
			}
			p.stop()
		}
	}
}

// With a current key that cannot wrap, the DEK of the key before it serves.
func TestRestartWithAnotherWriterThatCannotWrap(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		first, second := v.key("kek"), v.key("kek")
		options := kmsv2.Options{StateDir: t.TempDir()}
		p := start(t, setup{ring: v.current(first), options: options})
		p.status()
		p.stop()
		v.expire(second, time.Now().Add(-time.Hour))

		p = start(t, setup{ring: v.rotated(second, first), options: options})
		if id := p.status(); id != v.id(first) {
			t.Errorf("Status = %q", id)
		}
		p.opens(p.encrypt("seed"), "seed")
		synctest.Wait()
		if !strings.Contains(p.log.String(), "THE CURRENT KEY CANNOT WRAP") {
			t.Error("no loud warning")
		}
		v.expire(second, time.Now().Add(1000*time.Hour))
		pass(time.Minute)
		if id := p.status(); id != v.id(second) {
			t.Errorf("Status = %q once the current key wraps", id)
		}
	})
}

func TestRestartWhileDisabledFails(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		v := newVault(t)
		ref := v.key("kek")
		s := setup{ring: v.current(ref), options: kmsv2.Options{StateDir: t.TempDir()}}
		p := start(t, s)
		p.status()
		r := p.encrypt("seed")
		p.stop()
		v.enable(ref, false)
		p = start(t, s)
		_, err := p.Status(within(t, 3*time.Second))
		wantClass(t, err, envelope.ErrDisabled)
		if kmsv2.Code(err) != codes.FailedPrecondition {
			t.Errorf("code %v", kmsv2.Code(err))
		}
		_, err = p.Decrypt(context.Background(), "", request(r))
		wantClass(t, err, envelope.ErrDisabled)
		v.enable(ref, true)
		pass(time.Minute)
		p.status()
		p.opens(r, "seed")
	})
}

// Whatever stands in the state folder: it is ignored loudly, replaced, and never
// the reason not to start.
func TestUnusableState(t *testing.T) {
	v := newVault(t)
	ref := v.key("kek")
	good := savedState(t, v.current(ref))
	foreignVault := newVault(t)
	foreign := savedState(t, foreignVault.current(foreignVault.key("kek")))
	cases := map[string]func(t *testing.T, path string){
		"empty":            content(nil),
		"not JSON":         content([]byte("{")),
		"another version":  content(bytes.Replace(good, []byte(`"version":1`), []byte(`"version":2`), 1)),
		"not canonical":    content(bytes.Replace(good, []byte(`,"header"`), []byte(`, "header"`), 1)),
		"an extra member":  content(bytes.Replace(good, []byte(`{`), []byte(`{"x":1,`), 1)),
		"trailing data":    content(append(bytes.Clone(good), good...)),
		"truncated":        content(good[:len(good)/2]),
		"too large":        content(bytes.Repeat([]byte(" "), 1<<20)),
		"another key id":   content(bytes.Replace(good, []byte(v.id(ref)), []byte(strings.Repeat("0", 16)+v.id(ref)[16:]), 1)),
		"a flipped header": content(flipHeader(good)),
		"another HSM's":    content(foreign),
		"writable by others": func(t *testing.T, path string) {
			content(good)(t, path)
			must(t, os.Chmod(path, 0o666))
		},
		"a symbolic link": func(t *testing.T, path string) {
			elsewhere := filepath.Join(t.TempDir(), "elsewhere")
			content(good)(t, elsewhere)
			must(t, os.Symlink(elsewhere, path))
		},
		"a pipe": func(t *testing.T, path string) { must(t, syscall.Mkfifo(path, 0o600)) },
		"somebody else's": func(t *testing.T, path string) {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			content(good)(t, path)
			must(t, os.Chown(path, 65534, 65534))
		},
	}
	for name, prepare := range cases {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			prepare(t, filepath.Join(folder, stateName))
			p := start(t, setup{ring: v.current(ref), options: kmsv2.Options{StateDir: folder}})
			if id := p.status(); id != v.id(ref) {
				t.Errorf("Status = %q", id)
			}
			p.opens(p.encrypt("seed"), "seed")
			if name != "another HSM's" && !strings.Contains(p.log.String(), "IGNORING THE SAVED DATA KEY") {
				t.Error("nothing in the log says so")
			}
			dek := p.Snapshot().DEK
			if !dek.Saved {
				t.Error("the state was not replaced")
			}
			p.stop()
			p = start(t, setup{ring: v.current(ref), options: kmsv2.Options{StateDir: folder}})
			p.status()
			if got := p.Snapshot().DEK.ID; got != dek.ID {
				t.Error("the new state is not used")
			}
		})
	}
}

func content(raw []byte) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		must(t, os.WriteFile(path, raw, 0o600))
	}
}

// flipHeader changes one character inside the base64 of the header's tag.
func flipHeader(state []byte) []byte {
	flipped := bytes.Clone(state)
	i := len(flipped) - 20
	if flipped[i] == 'A' {
		flipped[i] = 'B'
	} else {
		flipped[i] = 'A'
	}
	return flipped
}

// savedState returns what a service with this ring saves.
func savedState(t *testing.T, config rotation.Config) []byte {
	t.Helper()
	folder := t.TempDir()
	p := start(t, setup{ring: config, options: kmsv2.Options{StateDir: folder}})
	p.status()
	p.stop()
	raw, err := os.ReadFile(filepath.Join(folder, stateName))
	must(t, err)
	return raw
}

func TestStateFolderOfOthersIsRefused(t *testing.T) {
	ring, err := rotation.New(oneKey(t), rotation.Options{})
	must(t, err)
	for name, spoil := range map[string]func(t *testing.T) string{
		"writable by others": func(t *testing.T) string {
			folder := t.TempDir()
			must(t, os.Chmod(folder, 0o777))
			return folder
		},
		"in a folder writable by others": func(t *testing.T) string {
			folder := t.TempDir()
			must(t, os.Chmod(folder, 0o777))
			return filepath.Join(folder, "state")
		},
		"somebody else's": func(t *testing.T) string {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a folder away")
			}
			folder := t.TempDir()
			must(t, os.Chown(folder, 65534, 65534))
			return folder
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := kmsv2.New(ring, kmsv2.Options{StateDir: spoil(t)})
			wantClass(t, err, envelope.ErrInvalid)
			if !strings.Contains(err.Error(), "remedy:") {
				t.Errorf("%q has no remedy", err)
			}
		})
	}
}

// A folder that cannot be written is loud and not fatal.
func TestStateThatCannotBeSaved(t *testing.T) {
	v := newVault(t)
	folder := t.TempDir()
	// In the way of the temporary file, even for root.
	must(t, os.MkdirAll(filepath.Join(folder, stateName+".new", "x"), 0o700))
	p := start(t, setup{ring: v.current(v.key("kek")), options: kmsv2.Options{StateDir: folder}})
	p.status()
	p.opens(p.encrypt("seed"), "seed")
	if p.Snapshot().DEK.Saved || !strings.Contains(p.log.String(), "CANNOT SAVE THE DATA KEY") {
		t.Error("nothing says that the state is not saved")
	}
}

// Processes that share a folder, and are killed in it, never leave it unusable.
func TestStateSharedByProcesses(t *testing.T) {
	if dir := os.Getenv("KMSV2_TEST_SHARED"); dir != "" {
		sharedWriter(t, dir)
		return
	}
	if testing.Short() {
		t.Skip("starts processes")
	}
	v := newVault(t)
	v.key("kek")
	state := t.TempDir()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for round := range 3 {
				cmd := exec.Command(os.Args[0], "-test.run=^TestStateSharedByProcesses$")
				cmd.Env = append(os.Environ(), "KMSV2_TEST_SHARED="+state, "KMSV2_TEST_HSM="+v.dir)
				out, err := cmd.StdoutPipe()
				if err == nil {
					err = cmd.Start()
				}
				if err != nil {
					t.Error(err)
					return
				}
				// A line for each save: kill it in the midst of another.
				buf := make([]byte, 1)
				for lines := 0; lines <= round; {
					if n, err := out.Read(buf); err != nil {
						t.Errorf("the writer ended: %v", err)
						break
					} else if n == 1 && buf[0] == '\n' {
						lines++
					}
				}
				cmd.Process.Kill()
				cmd.Wait()
			}
		})
	}
	wg.Wait()
	p := start(t, setup{ring: v.current(hsmsim.Ref{Name: "kek", Version: latest(t, v.hsm)}), options: kmsv2.Options{StateDir: state}})
	p.status()
	p.opens(p.encrypt("seed"), "seed")
	if strings.Contains(p.log.String(), "IGNORING THE SAVED DATA KEY") {
		t.Errorf("the state is spoilt:\n%s", p.log)
	}
}

func latest(t *testing.T, h *hsmsim.HSM) string {
	t.Helper()
	key, err := h.Key(context.Background(), "kek", "")
	must(t, err)
	return key.Version
}

// sharedWriter makes the service save a DEK over and over, until it is killed.
func sharedWriter(t *testing.T, dir string) {
	hsm, err := hsmsim.Open(os.Getenv("KMSV2_TEST_HSM"), hsmsim.Options{})
	must(t, err)
	kek, err := hsm.KEK(hsmsim.Ref{Name: "kek", Version: latest(t, hsm)})
	must(t, err)
	for i := range 200 {
		ring, err := rotation.New(rotation.Config{Current: rotation.Key{KEK: kek, Epoch: uint32(i)}}, rotation.Options{})
		must(t, err)
		svc, err := kmsv2.New(ring, kmsv2.Options{StateDir: dir})
		must(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- svc.Run(ctx) }()
		_, err = svc.Status(within(t, 10*time.Second))
		must(t, err)
		os.Stdout.WriteString(strconv.Itoa(i) + "\n")
		cancel()
		<-ended
	}
}
