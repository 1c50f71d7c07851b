package hsmsim

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyfold/keyfold/envelope"
)

const (
	stateFile  = "hsm.state"
	keyFile    = "hsm.key"
	lockFile   = "lock"
	tempPrefix = ".tmp-"
	lockPoll   = 2 * time.Millisecond
)

// ensureFolder makes dir, or checks that nobody else can look into it.
func ensureFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(envelope.ErrUnreachable, "open", "", err, "choose a folder that this user can create")
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return fail(envelope.ErrUnreachable, "open", "", err, "check the folder")
	}
	return checkMode(dir, fi, "700")
}

// checkMode refuses what group or others can reach. Such a folder may have been
// read already, which a silent chmod would hide.
func checkMode(path string, fi fs.FileInfo, want string) error {
	if fi.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return fail(envelope.ErrForbidden, "open", "", fmt.Errorf("%s has mode %04o and is open to other users", path, fi.Mode().Perm()),
		fmt.Sprintf("chmod %s %s, and consider its keys exposed", want, path))
}

// openPrivate opens a file for reading and checks its mode.
func openPrivate(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil {
		err = checkMode(path, fi, "600")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// tryLock takes the folder's only lock unless it is taken. Each call opens the
// file anew, because flock belongs to the open file: so it also excludes the
// goroutines and other HSMs of this process.
func tryLock(dir string) (unlock func(), ok bool, err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, false, err
	}
	err = unix.EINTR
	for errors.Is(err, unix.EINTR) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		return func() { f.Close() }, true, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, false, nil
	}
	return nil, false, fmt.Errorf("lock %s: %w", f.Name(), err)
}

// lockFolder waits for the lock. It polls, as a blocking flock would not heed ctx
// while another writer is stopped.
func lockFolder(ctx context.Context, dir string) (unlock func(), err error) {
	for {
		unlock, ok, err := tryLock(dir)
		if ok || err != nil {
			return unlock, err
		}
		poll := time.NewTimer(lockPoll)
		select {
		case <-poll.C:
		case <-ctx.Done():
			poll.Stop()
			return nil, fmt.Errorf("another process is writing in %s: %w", dir, ctx.Err())
		}
	}
}

// lockWithin waits for the lock where the caller gives no context.
func lockWithin(op, dir string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(context.Background(), openWait)
	defer cancel()
	if unlock, err = lockFolder(ctx, dir); err != nil {
		err = fail(envelope.ErrUnreachable, op, "", err, "check the folder, and for a process that is stopped while writing in it")
	}
	return unlock, err
}

// replaceFile makes path hold data, atomically and durably, and returns it opened
// for reading. The caller holds the folder's lock.
func replaceFile(path string, data []byte) (*os.File, error) {
	return placeFile(path, data, os.Rename)
}

// placeFile writes a temporary file and gives it its name by place.
func placeFile(path string, data []byte, place func(temp, path string) error) (*os.File, error) {
	dir := filepath.Dir(path)
	temp := filepath.Join(dir, tempPrefix+randomHex(8))
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = place(temp, path)
	}
	os.Remove(temp) // gone already after a rename
	if err == nil {
		// Until the directory is on disk too, a power cut may undo the change.
		err = syncDir(dir)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// removeLeftovers deletes what a killed writer left behind. The caller holds the
// lock, so no writer is at work.
func removeLeftovers(dir string) {
	leftovers, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	for _, path := range leftovers {
		os.Remove(path)
	}
}

// readAll reads at most limit bytes and refuses more.
func readAll(f *os.File, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", f.Name(), limit)
	}
	return b, err
}

// readKeyFile returns the 32 bytes of a key file: 64 hex digits and a line feed.
func readKeyFile(path string) ([]byte, error) {
	f, err := openPrivate(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := readAll(f, 4096)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	key := make([]byte, sealKeySize)
	if n := len(text); n != 2*sealKeySize+1 || text[n-1] != '\n' {
		err = errors.New("wrong length")
	} else if _, err = hex.Decode(key, text[:n-1]); err != nil {
		err = errors.New("not in hex") // hex's own error would quote a character of the key
	}
	if err != nil {
		return nil, fail(envelope.ErrUnauthenticated, "open", "", fmt.Errorf("key file %s: %w", path, err),
			"use the file that the folder was created with: 64 hex digits and a line feed")
	}
	return key, nil
}

// createKeyFile writes a new random key file. It links and does not rename, since
// another folder may be creating the same file: then both use the first.
func createKeyFile(path string) ([]byte, error) {
	key := make([]byte, sealKeySize)
	rand.Read(key)
	text := append(hex.AppendEncode(nil, key), '\n')
	defer clear(text)
	f, err := placeFile(path, text, os.Link)
	if errors.Is(err, fs.ErrExist) {
		return readKeyFile(path)
	}
	if err != nil {
		return nil, err
	}
	return key, f.Close()
}
