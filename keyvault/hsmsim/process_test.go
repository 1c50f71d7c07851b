package hsmsim_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keyfold/keyfold/envelope"
	"github.com/keyfold/keyfold/keyvault/hsmsim"
)

// The test binary starts itself as another process on the same folder: with
// childMode set it is that process.
const (
	childMode = "HSMSIM_TEST_CHILD"
	childDir  = "HSMSIM_TEST_DIR"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		if err := child(mode, os.Getenv(childDir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func child(mode, dir string) error {
	h, err := hsmsim.Open(dir, hsmsim.Options{})
	if err != nil {
		return err
	}
	defer h.Close()
	kek, err := h.KEK(hsmsim.Ref{Name: "kek"})
	if err != nil {
		return err
	}
	ctx := context.Background()
	if mode == "rotate" { // until killed, reporting each version that exists
		for {
			v, err := h.Rotate(ctx, "kek")
			if err != nil {
				return err
			}
			fmt.Println(v.Version)
		}
	}
	// mode "wrap": for each line on standard input one wrap, and its key id or class
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		w, err := kek.Wrap(ctx, make([]byte, 32))
		switch {
		case errors.Is(err, envelope.ErrUnreachable):
			fmt.Println("unreachable")
		case errors.Is(err, envelope.ErrDisabled):
			fmt.Println("disabled")
		case err != nil:
			return err
		default:
			fmt.Println(w.KeyID)
		}
	}
	return nil
}

func startChild(t *testing.T, mode, dir string) (*exec.Cmd, io.Writer, *bufio.Scanner) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childMode+"="+mode, childDir+"="+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd, in, bufio.NewScanner(out)
}

// TestProcesses: another process sees each change with its next operation, is
// disturbed through faults.json, and its operations can be counted.
func TestProcesses(t *testing.T) {
	h, dir := open(t, hsmsim.Options{})
	ctx := t.Context()
	v, err := h.CreateKey(ctx, "kek", hsmsim.AES256)
	if err != nil {
		t.Fatal(err)
	}
	cmd, in, out := startChild(t, "wrap", dir)
	want := func(want string) {
		t.Helper()
		fmt.Fprintln(in)
		if !out.Scan() {
			t.Fatalf("the other process has ended: %v", out.Err())
		}
		if out.Text() != want {
			t.Errorf("the other process: %s, want %s", out.Text(), want)
		}
	}
	want(v.KeyID)
	for range 3 {
		if v, err = h.Rotate(ctx, "kek"); err != nil {
			t.Fatal(err)
		}
		want(v.KeyID)
	}
	if err := h.SetEnabled(ctx, "kek", v.Version, false); err != nil {
		t.Fatal(err)
	}
	want("disabled")
	if err := h.SetEnabled(ctx, "kek", v.Version, true); err != nil {
		t.Fatal(err)
	}
	if err := hsmsim.WriteFaults(dir, hsmsim.Faults{Outage: true}); err != nil {
		t.Fatal(err)
	}
	want("unreachable")
	if err := os.Remove(filepath.Join(dir, "faults.json")); err != nil {
		t.Fatal(err)
	}
	want(v.KeyID)

	results := map[string]int{}
	for _, e := range readLog(t, dir) {
		if e.PID == cmd.Process.Pid {
			results[string(e.Operation)+" "+e.Result]++
		}
	}
	if len(results) != 3 || results["wrapKey ok"] != 5 || results["wrapKey disabled"] != 1 || results["wrapKey unreachable"] != 1 {
		t.Errorf("the other process's operations: %v", results)
	}
}

// TestKilledWriter kills a process that rotates in a loop at random instants. What
// it had reported is there, at most one version more, and everything works.
func TestKilledWriter(t *testing.T) {
	h, dir := open(t, hsmsim.Options{})
	ctx := t.Context()
	if _, err := h.CreateKey(ctx, "kek", hsmsim.AES256); err != nil {
		t.Fatal(err)
	}
	for round := range 8 {
		before, err := h.Versions(ctx, "kek")
		if err != nil {
			t.Fatal(err)
		}
		cmd, _, out := startChild(t, "rotate", dir)
		var reported []string
		if out.Scan() { // it is in its loop
			reported = append(reported, out.Text())
		}
		time.AfterFunc(time.Duration(rand.Int64N(int64(10*time.Millisecond))), func() { cmd.Process.Kill() })
		for out.Scan() {
			reported = append(reported, out.Text())
		}
		cmd.Wait()

		again := reopen(t, dir, hsmsim.Options{})
		after, err := again.Versions(ctx, "kek")
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		var added []string
		for _, v := range after[len(before):] {
			added = append(added, v.Version)
		}
		if !slices.Equal(after[:len(before)], before) || len(added) > len(reported)+1 || !slices.Equal(added[:min(len(added), len(reported))], reported) {
			t.Fatalf("round %d: reported %q, found %q", round, reported, added)
		}
		kek := mustKEK(t, again, hsmsim.Ref{Name: "kek"})
		w, err := kek.Wrap(ctx, make([]byte, 32))
		if err != nil || w.KeyID != after[len(after)-1].KeyID {
			t.Fatalf("round %d: Wrap: %s, %v", round, w.KeyID, err)
		}
		if _, err := mustKEK(t, h, hsmsim.Ref{Name: "kek"}).Unwrap(ctx, w); err != nil {
			t.Fatalf("round %d: the handle that was open all the time: %v", round, err)
		}
		if leftovers, _ := filepath.Glob(filepath.Join(dir, ".tmp-*")); len(leftovers) != 0 {
			t.Errorf("round %d: leftovers after Open: %q", round, leftovers)
		}
	}
}
