package kmsv2

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/keyfold/keyfold/envelope"
)

const (
	stateName    = "dek.json"
	stateVersion = 1
	// maxState is larger than any state: the largest header in base64, and some.
	maxState = 64 << 10
)

// savedDEK is what a restart needs to go on under a DEK. None of it is secret.
type savedDEK struct {
	keyID   string
	header  []byte
	created time.Time
}

func (d savedDEK) equal(e savedDEK) bool {
	return d.keyID == e.keyID && d.created.Equal(e.created) && bytes.Equal(d.header, e.header)
}

// stateFile keeps the last DEK in a folder:
//
//	{"version":1,"keyID":"FAMILY/VERSION","created":"2026-05-04T03:02:01Z","header":"BASE64"}
//
// The file is replaced as a whole, so that a kill at any instant, or another process
// with the same folder, leaves one state or the other. Its content is authenticated
// by the header's own tag, but only with the DEK inside it: that it is ours rests on
// who can write the folder.
type stateFile struct {
	folder string
}

type stateContent struct {
	Version int       `json:"version"`
	KeyID   string    `json:"keyID"`
	Created time.Time `json:"created"`
	Header  []byte    `json:"header"`
}

// openStateFolder makes the folder if need be and checks who can write it.
func openStateFolder(folder string) (*stateFile, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, invalid("open state folder", "see that this user may make the folder", "%w", err)
	}
	if err := checkFolder("open state folder", folder); err != nil {
		return nil, err
	}
	return &stateFile{folder: folder}, nil
}

func (f *stateFile) path() string { return filepath.Join(f.folder, stateName) }

// load returns the saved DEK, nil if there is none, or an error if there is
// something else, which the next save replaces.
func (f *stateFile) load() (*savedDEK, error) {
	// Neither follow a link nor wait for a pipe's other end.
	file, err := os.OpenFile(f.path(), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if uid, ok := ownerOf(info); !ok || !trusted(uid) || !info.Mode().IsRegular() || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s has mode %v and belongs to user %d: others may have written it", f.path(), info.Mode(), uid)
	}
	raw, err := io.ReadAll(io.LimitReader(file, maxState+1))
	if err != nil {
		return nil, err
	}
	return parseState(raw)
}

// parseState accepts only what save writes, to the byte.
func parseState(raw []byte) (*savedDEK, error) {
	var c stateContent
	if len(raw) > maxState {
		return nil, errors.New("the state is too large")
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("the state is not JSON: %w", err)
	}
	d := &savedDEK{keyID: c.KeyID, header: c.Header, created: c.Created}
	if again, err := d.encode(); err != nil || c.Version != stateVersion || !bytes.Equal(again, raw) {
		return nil, fmt.Errorf("the state is not of version %d in its one encoding", stateVersion)
	}
	h, size, err := envelope.Inspect(d.header)
	if err != nil {
		return nil, err
	}
	if size != len(d.header) || !slices.ContainsFunc(h.Wraps, func(w envelope.WrappedKey) bool { return w.KeyID == d.keyID }) {
		return nil, errors.New("the state's header is not one of its key id")
	}
	return d, nil
}

func (d *savedDEK) encode() ([]byte, error) {
	raw, err := json.Marshal(stateContent{Version: stateVersion, KeyID: d.keyID, Created: d.created.UTC().Round(0), Header: d.header})
	return append(raw, '\n'), err
}

// save replaces the state, durably.
func (f *stateFile) save(d savedDEK) error {
	raw, err := d.encode()
	if err != nil {
		return err
	}
	// Under the lock the temporary name can be fixed, so that a killed process
	// leaves one such file at most, for the next save to overwrite.
	unlock, err := lockFolder(f.folder)
	if err != nil {
		return err
	}
	defer unlock()
	temporary := f.path() + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeSynced(temporary, raw); err != nil {
		return err
	}
	if err := os.Rename(temporary, f.path()); err != nil {
		return err
	}
	return syncFolder(f.folder)
}

func writeSynced(path string, raw []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(raw)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// syncFolder makes a rename in the folder last through a power failure.
func syncFolder(folder string) error {
	dir, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
