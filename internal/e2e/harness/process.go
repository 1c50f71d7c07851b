package harness

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Command says how to start a program.
type Command struct {
	// Name is how logs and messages call it, and the name of its log file.
	Name string
	Path string
	Args []string
	// Env is added to the environment of the test.
	Env []string
}

// Process is a program that is started, killed and started again. Its log goes
// on in one file over all its lives.
type Process struct {
	Command
	logPath string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	err  error         // how it ended; valid once done is closed
}

// NewProcess prepares a process that is not started yet. It is killed when t
// ends, and if t failed then, the end of its log is printed.
func NewProcess(t testing.TB, logDir string, c Command) *Process {
	p := &Process{Command: c, logPath: filepath.Join(logDir, c.Name+".log")}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("---- the end of %s ----\n%s", p.logPath, tail(p.Log(), 60))
		}
	})
	return p
}

// starter starts every process from one thread that lives as long as the test
// process: the kernel sends Pdeathsig when the parent's thread ends, not when
// the parent does.
var starter = sync.OnceValue(func() chan<- func() {
	jobs := make(chan func())
	go func() {
		runtime.LockOSThread()
		for job := range jobs {
			job()
		}
	}()
	return jobs
})

// Start starts the process, which must not be running.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the child has its own
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	starter() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", p.Name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done, p.err = cmd, done, nil
	go func() {
		p.err = cmd.Wait()
		close(done)
	}()
}

// Running tells whether the process runs.
func (p *Process) Running() bool {
	_, done := p.current()
	select {
	case <-done:
		return false
	default:
		return true
	}
}

// PID is the id of the present or last life; 0 before the first.
func (p *Process) PID() int {
	cmd, _ := p.current()
	if cmd == nil {
		return 0
	}
	return cmd.Process.Pid
}

// Kill ends the process with SIGKILL, which no program can prepare for, and
// waits for its end.
func (p *Process) Kill() {
	cmd, done := p.current()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill()
	<-done
}

// Terminate sends SIGTERM and fails the test unless the process ends with exit
// code 0 within the time.
func (p *Process) Terminate(t testing.TB, within time.Duration) {
	t.Helper()
	cmd, done := p.current()
	if cmd == nil {
		t.Fatalf("%s was never started", p.Name)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("terminate %s: %v", p.Name, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	select {
	case <-done:
		if p.err != nil {
			t.Fatalf("%s ended after SIGTERM with %v", p.Name, p.err)
		}
	case <-ctx.Done():
		t.Fatalf("%s still runs %s after SIGTERM", p.Name, within)
	}
}

// current returns the command of the present life; before the first one, a nil
// command and a closed channel.
func (p *Process) current() (*exec.Cmd, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		never := make(chan struct{})
		close(never)
		return nil, never
	}
	return p.cmd, p.done
}

// mustRun is an error when the process has ended, so that nobody waits for a
// program that is dead.
func (p *Process) mustRun() error {
	if !p.Running() {
		return fmt.Errorf("%s has ended: %v: %w", p.Name, p.err, errGiveUp)
	}
	return nil
}

// Log returns everything the process has logged in all its lives.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.logPath)
	if err != nil {
		return ""
	}
	return string(b)
}

// LogMark returns the place where the log ends now, for LogSince.
func (p *Process) LogMark() int { return len(p.Log()) }

// LogSince returns what has been logged since the mark.
func (p *Process) LogSince(mark int) string { return p.Log()[mark:] }

func tail(s string, lines int) string {
	all := bytes.Split([]byte(strings.TrimSpace(s)), []byte("\n"))
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return string(bytes.Join(all, []byte("\n")))
}
