package hsmsim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

const (
	logFile    = "operations.log"
	oldLogFile = "operations.log.1"
	maxLogSize = 16 << 20
)

// LogEntry is one line of the operations log. It names what was done to which
// key and never holds a byte of a key, plaintext or ciphertext.
type LogEntry struct {
	Time      time.Time `json:"time"`
	PID       int       `json:"pid"`
	Operation Operation `json:"op"`
	// Key and Version are empty where the operation concerns none or failed
	// before one was found.
	Key     string `json:"key,omitempty"`
	Version string `json:"version,omitempty"`
	// RequestID is the caller's, see [envelope.RequestID].
	RequestID string `json:"requestId,omitempty"`
	// Result is "ok", "canceled" (a context that ended) or the class of the
	// error: "disabled", "deleted", "expired", "notYetValid", "forbidden",
	// "throttled", "unreachable", "corrupt", "invalid", or "error".
	Result string `json:"result"`
}

// opLog appends to the operations log of a folder that several processes share.
type opLog struct {
	dir string

	mu     sync.Mutex
	file   *os.File
	closed bool
}

// append writes one line in one O_APPEND write, so that lines of several
// processes never mix.
func (l *opLog) append(e LogEntry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	if err := l.follow(); err != nil {
		return err
	}
	_, err = l.file.Write(line)
	return err
}

// follow makes file the one that operations.log names now: another process may
// have rotated it, or an operator removed it.
func (l *opLog) follow() error {
	path := filepath.Join(l.dir, logFile)
	fi, err := os.Stat(path)
	if err == nil && fi.Size() >= maxLogSize {
		l.rotate(path)
		fi, err = os.Stat(path)
	}
	if l.file != nil && err == nil {
		if own, ownErr := l.file.Stat(); ownErr == nil && os.SameFile(own, fi) {
			return nil
		}
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	return err
}

// rotate keeps one older log. Who finds the folder's lock taken leaves rotation to
// a later operation, because a line of log is worth no waiting.
func (l *opLog) rotate(path string) {
	unlock, ok, _ := tryLock(l.dir)
	if !ok {
		return
	}
	defer unlock()
	if fi, err := os.Stat(path); err == nil && fi.Size() >= maxLogSize {
		os.Rename(path, filepath.Join(l.dir, oldLogFile))
	}
}

// close ends the log; what is appended after it is dropped.
func (l *opLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.file != nil {
		l.file.Close()
	}
}

// ReadLog reads the operations log in dir, oldest entry first, as far as it has
// been kept: 16 MiB and the 16 MiB before. A line that is no entry yields an
// [envelope.ErrCorrupt] and reading goes on.
func ReadLog(dir string) iter.Seq2[LogEntry, error] {
	return func(yield func(LogEntry, error) bool) {
		for _, name := range []string{oldLogFile, logFile} {
			if !readLogFile(filepath.Join(dir, name), yield) {
				return
			}
		}
	}
}

func readLogFile(path string, yield func(LogEntry, error) bool) (more bool) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		return yield(LogEntry{}, fail(envelope.ErrUnreachable, "read log", "", err, "check the folder"))
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		var e LogEntry
		var lineErr error
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			e, lineErr = LogEntry{}, fail(envelope.ErrCorrupt, "read log", "",
				fmt.Errorf("%s: line %d is no entry", path, n), "skip the line")
		}
		if !yield(e, lineErr) {
			return false
		}
	}
	if err := lines.Err(); err != nil {
		return yield(LogEntry{}, fail(envelope.ErrCorrupt, "read log", "", err, "move the file away"))
	}
	return true
}
