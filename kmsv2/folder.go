package kmsv2

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lockPatience is how long to wait for another process to leave a folder. What is
// done under the lock takes milliseconds.
const lockPatience = 2 * time.Second

// checkFolder accepts a folder that nobody but root and this user can change: not
// the folder and not the way to it, through symbolic links and all. A sticky folder
// on the way (/tmp) protects what is ours in it; as the folder itself it is refused,
// since anybody could take a name in it first.
func checkFolder(op, folder string) error {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return invalid(op, "give an absolute path", "folder %s: %w", folder, err)
	}
	real, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return invalid(op, "make the folder, with mode 0700", "folder %s: %w", folder, err)
	}
	return checkWay(op, folder, real, 0)
}

// maxLinks is how many symbolic links may lie on the way, as many as Linux follows.
const maxLinks = 40

// checkWay checks every step from at up to the root, and every step to where a
// symbolic link among them leads. folder is the one that all of it leads to.
func checkWay(op, at, folder string, links int) error {
	for ; ; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return invalid(op, "see that this user may look at the folder", "folder %s: %w", at, err)
		}
		uid, ok := ownerOf(info)
		if !ok || !trusted(uid) {
			return invalid(op, "choose a folder of root's or of this user's", "%s belongs to user %d, who can replace what is behind it", at, uid)
		}
		switch {
		case info.Mode().Type() == fs.ModeSymlink:
			target, err := os.Readlink(at)
			if err != nil || links == maxLinks {
				return invalid(op, "give the path without symbolic links", "cannot follow %s: %w", at, cmp.Or[error](err, syscall.ELOOP))
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(at), target)
			}
			if err := checkWay(op, target, folder, links+1); err != nil {
				return err
			}
		case !info.IsDir():
			return invalid(op, "choose another path", "%s is not a folder", at)
		case info.Mode().Perm()&0o022 != 0 && (info.Mode()&fs.ModeSticky == 0 || at == folder):
			return invalid(op, fmt.Sprintf("chmod go-w %s, or choose a folder of its own", at),
				"folder %s has mode %v: others can replace what is in it", at, info.Mode())
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// trusted tells whether a file's owner is this user or root, who could read this
// process's memory anyway.
func trusted(uid uint32) bool { return uid == 0 || uid == uint32(os.Geteuid()) }

func ownerOf(info fs.FileInfo) (uid uint32, ok bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return stat.Uid, true
}

// lockFolder takes the folder for this process. The lock is on the folder itself,
// so it leaves no file behind, and it goes with the process however that ends.
func lockFolder(folder string) (unlock func(), err error) {
	dir, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { dir.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			dir.Close()
			return nil, fmt.Errorf("lock folder %s: %w", folder, err)
		}
	}
}
