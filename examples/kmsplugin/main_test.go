package main_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	// The plugin runs as a process of its own; this makes the go command notice that
	// a result it remembers is of another plugin.
	_ "github.com/keyfold/keyfold/examples/kmsplugin"
)

// binary is the plugin as an operator runs it. The tests drive it from outside,
// as a process: flags, signals, files, socket and endpoints are its interface.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "kmsplugin")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "kmsplugin")
		build := exec.Command("go", append(append([]string{"build"}, buildFlags...), "-o", binary, ".")...)
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the plugin: %v\n%s", err, out)
			return 1
		}
		// These tests wait for other processes more than they compute. A -parallel on
		// the command line still counts: it is parsed by Run.
		flag.Set("test.parallel", "8")
		return m.Run()
	}())
}

// buildFlags is -race if the tests have it.
var buildFlags []string

// patience bounds every wait. It is generous because nothing waits for longer
// than it must.
const patience = 30 * time.Second

// eventually polls until f returns nil.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		case <-tick.C:
		}
	}
}

// process is one running plugin.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when it has exited

	mu  sync.Mutex
	log bytes.Buffer
}

// start runs the plugin and does not wait for it to be ready.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(binary, args...), done: make(chan struct{})}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		for lines := bufio.NewReader(stderr); ; {
			line, err := lines.ReadString('\n')
			p.mu.Lock()
			p.log.WriteString(line)
			p.mu.Unlock()
			if err != nil {
				break
			}
		}
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if strings.Contains(p.logs(), "DATA RACE") || strings.Contains(p.logs(), "panic") {
			t.Error("the plugin has a data race or panicked")
		}
		if t.Failed() {
			t.Logf("log of kmsplugin %q:\n%s", args, p.logs())
		}
	})
	return p
}

func (p *process) logs() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// logLine waits for a line of the log that has all of the parts, and returns it.
func (p *process) logLine(parts ...string) (found string) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("log line with %q", parts), func() error {
	lines:
		for _, line := range strings.Split(p.logs(), "\n") {
			for _, part := range parts {
				if !strings.Contains(line, part) {
					continue lines
				}
			}
			found = line
			return nil
		}
		return errors.New("no such line")
	})
	return found
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// exitCode waits for the end of the process.
func (p *process) exitCode() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("still running after %v", patience)
		return -1
	}
}

// kill is kill -9: no handler of the plugin runs.
func (p *process) kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	p.exitCode()
}

// runToEnd runs the plugin with args that make it end by itself.
func runToEnd(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errs strings.Builder
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// freePort returns a TCP port of the loopback that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
