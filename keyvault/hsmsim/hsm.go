package hsmsim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

// openWait bounds the wait for other processes where there is no context.
const openWait = 10 * time.Second

// Options of [Open]. The zero value seals the folder under the key file hsm.key
// inside it, made on first use, and permits everything.
type Options struct {
	// Passphrase seals the folder under argon2id (64 MiB, 3 passes), which no FIPS
	// standard approves; a key file does without. It is not kept. An empty one
	// that is not nil is refused: more likely than meant it is a variable that
	// was never set.
	Passphrase []byte
	// KeyFile is another place for the sealing key, 64 hex digits and a line
	// feed. It is created together with the folder and never after.
	KeyFile string
	// Permissions are the operations that this HSM handle may perform, as a
	// vault's role for one client. nil permits all, an empty slice none.
	Permissions []Operation
	// Faults disturb operations, until faults.json says otherwise.
	Faults Faults
	// Logger receives warnings. nil discards them.
	Logger *slog.Logger
	// Now is the clock of attributes, limits and the log. nil is time.Now.
	// Latencies pass in real time, or in that of a testing/synctest bubble.
	Now func() time.Time
}

// HSM is one opening of a folder. Several may be open at once, in this process
// and in others.
type HSM struct {
	dir         string
	id          string
	pid         int
	sealer      *sealer
	permissions []Operation
	faults      disturber
	oplog       opLog
	log         *slog.Logger
	now         func() time.Time
	closed      atomic.Bool

	loaded atomic.Pointer[loaded]
	load   sync.Mutex // held to replace loaded
}

// loaded is a state and the file it came from. The file stays open: while it is,
// its inode cannot be given to a newer file, so that one stat tells exactly
// whether the state is still the latest.
type loaded struct {
	state *state
	file  *os.File
	info  fs.FileInfo
}

func (l *loaded) isFrom(fi fs.FileInfo) bool {
	return os.SameFile(l.info, fi) && l.info.Size() == fi.Size() && l.info.ModTime().Equal(fi.ModTime())
}

// Open opens the HSM in dir and creates it if dir is missing or empty. Errors:
// [envelope.ErrUnauthenticated] for the wrong passphrase or key file,
// [envelope.ErrCorrupt] for a damaged or missing state file,
// [envelope.ErrForbidden] for a folder or file that other users can read,
// [envelope.ErrInvalid] for options that contradict themselves.
func Open(dir string, o Options) (*HSM, error) {
	h, err := newHSM(dir, o)
	if err != nil {
		return nil, err
	}
	if err := ensureFolder(h.dir); err != nil {
		return nil, err
	}
	unlock, err := lockWithin("open", h.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	removeLeftovers(h.dir)

	if _, err := os.Stat(h.path(stateFile)); errors.Is(err, fs.ErrNotExist) {
		if err := h.create(o); err != nil {
			return nil, err
		}
	} else if err := h.unseal(o); err != nil {
		return nil, err
	}
	h.id = h.loaded.Load().state.ID
	return h, nil
}

func newHSM(dir string, o Options) (*HSM, error) {
	const op = "open"
	switch {
	case dir == "":
		return nil, invalid(op, "", "name a folder", "no folder given")
	case o.Passphrase != nil && len(o.Passphrase) == 0:
		return nil, invalid(op, "", "set the passphrase, or leave it nil for a key file", "the passphrase is empty")
	case o.Passphrase != nil && o.KeyFile != "":
		return nil, invalid(op, "", "choose one", "a passphrase and a key file are given")
	}
	if err := o.Faults.validate(); err != nil {
		return nil, invalid(op, "", "correct Options.Faults", "%w", err)
	}
	for _, p := range o.Permissions {
		if !slices.Contains(Operations(), p) {
			return nil, invalid(op, "", "use the constants of this package", "unknown permission %q", p)
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fail(envelope.ErrUnreachable, op, "", err, "name the folder by an absolute path")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	h := &HSM{dir: dir, pid: os.Getpid(), permissions: slices.Clone(o.Permissions), log: o.Logger, now: o.Now}
	h.oplog.dir = dir
	h.faults = disturber{path: h.path(faultsFile), fromOpts: o.Faults, now: o.Now}
	if _, err := h.faults.reload(); err != nil {
		return nil, invalid(op, "", "correct or remove "+h.path(faultsFile), "%w", err)
	}
	return h, nil
}

// create makes a new HSM. A key file without a state is what a creation killed in
// the middle leaves, and is used; a log without a state is an HSM that lost its
// keys, which nothing new may cover up.
func (h *HSM) create(o Options) error {
	for _, name := range []string{logFile, oldLogFile} {
		if _, err := os.Lstat(h.path(name)); err == nil {
			return corruptState("it is missing, although the folder was in use")
		}
	}
	s, err := h.secret(o, true)
	if err != nil {
		return err
	}
	if h.sealer, err = newSealer(s); err != nil {
		return err
	}
	if err := h.publish(newState()); err != nil {
		return fail(envelope.ErrUnreachable, "open", "", err, "check that the folder can be written")
	}
	return nil
}

// unseal opens an existing HSM.
func (h *HSM) unseal(o Options) error {
	f, file, err := h.readState()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := checkFrame(file); err != nil {
		return err
	}
	s, err := h.secret(o, false)
	if err != nil {
		return err
	}
	if h.sealer, err = sealerFor(file, s); err != nil {
		return err
	}
	_, err = h.current()
	return err
}

// secret returns what the operator seals with, and creates the key file if told to.
func (h *HSM) secret(o Options, create bool) (secret, error) {
	if o.Passphrase != nil {
		return secret{kdf: kdfPassphrase, bytes: o.Passphrase}, nil
	}
	path := o.KeyFile
	if path == "" {
		path = h.path(keyFile)
	}
	b, err := readKeyFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if create {
			b, err = createKeyFile(path)
		} else {
			err = fail(envelope.ErrUnauthenticated, "open", "", err,
				"bring back the key file, or give the passphrase if the folder has one")
		}
	}
	var known *envelope.Error
	if err != nil && !errors.As(err, &known) {
		err = fail(envelope.ErrUnreachable, "open", "", err, "check the key file")
	}
	return secret{kdf: kdfKeyFile, bytes: b}, err
}

// Close releases the HSM's files. Operations after it answer [envelope.ErrInvalid].
func (h *HSM) Close() error {
	if h.closed.Swap(true) {
		return nil
	}
	h.load.Lock()
	defer h.load.Unlock()
	h.oplog.close()
	return h.loaded.Load().file.Close()
}

func (h *HSM) path(name string) string { return filepath.Join(h.dir, name) }

// current returns the latest state, loading it if another process has replaced it.
func (h *HSM) current() (*state, error) {
	// The stat comes first: a state loaded after it can only be newer.
	if fi, err := os.Stat(h.path(stateFile)); err == nil {
		if l := h.loaded.Load(); l != nil && l.isFrom(fi) {
			return l.state, nil
		}
	}
	h.load.Lock()
	defer h.load.Unlock()
	return h.reload()
}

// reload loads the state file unless it is the loaded one. load is held.
func (h *HSM) reload() (*state, error) {
	f, file, err := h.readState()
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fail(envelope.ErrUnreachable, "open", "", err, "check the folder")
	}
	l := h.loaded.Load()
	if l != nil && l.isFrom(fi) {
		f.Close()
		return l.state, nil
	}
	plaintext, err := h.sealer.open(file)
	if err != nil {
		f.Close()
		return nil, err
	}
	defer clear(plaintext)
	var prev *state
	if l != nil {
		prev = l.state
	}
	s, err := decodeState(plaintext, prev)
	if err != nil {
		f.Close()
		return nil, err
	}
	h.replaceLoaded(&loaded{state: s, file: f, info: fi})
	return s, nil
}

func (h *HSM) replaceLoaded(l *loaded) {
	if old := h.loaded.Swap(l); old != nil {
		old.file.Close()
	}
	if h.closed.Load() { // Close ran first and closed only what it saw
		l.file.Close()
	}
}

func (h *HSM) readState() (*os.File, []byte, error) {
	f, err := openPrivate(h.path(stateFile))
	var known *envelope.Error
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, corruptState("it is missing")
	case errors.As(err, &known):
		return nil, nil, err
	case err != nil:
		return nil, nil, fail(envelope.ErrUnreachable, "open", "", err, "check the folder")
	}
	file, err := readAll(f, maxStateSize)
	if err != nil {
		f.Close()
		return nil, nil, fail(envelope.ErrUnreachable, "open", "", err, "check the folder")
	}
	return f, file, nil
}

// mutate applies change to the latest state and writes it. Other writers wait.
func (h *HSM) mutate(ctx context.Context, op, label string, change func(*state) error) error {
	unlock, err := lockFolder(ctx, h.dir)
	if err != nil {
		return fail(envelope.ErrUnreachable, op, label, err, "try again; if it lasts, look for a process that is stopped while writing")
	}
	defer unlock()
	removeLeftovers(h.dir)
	h.load.Lock()
	defer h.load.Unlock()
	latest, err := h.reload()
	if err != nil {
		return unusable(op, label, err)
	}
	next := latest.clone()
	if err := change(next); err != nil {
		return err
	}
	next.Generation++
	if err := h.publish(next); err != nil {
		return unusable(op, label, fmt.Errorf("write the state: %w", err))
	}
	return nil
}

// publish writes a state and makes it the loaded one. The folder's lock is held.
func (h *HSM) publish(s *state) error {
	plaintext, err := s.encode()
	if err != nil {
		return err
	}
	defer clear(plaintext)
	sealed := h.sealer.seal(plaintext)
	if len(sealed) > maxStateSize {
		// Nobody would read it again, nor what it replaces.
		return fmt.Errorf("%d bytes are more than the %d of the largest folder; purge keys", len(sealed), maxStateSize)
	}
	f, err := replaceFile(h.path(stateFile), sealed)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	h.replaceLoaded(&loaded{state: s, file: f, info: fi})
	return nil
}
