// SPDX-License-Identifier: Apache-2.0

package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// TemporarySuffix ends the name of a file that Replace has not finished. Such files are never read.
const TemporarySuffix = ".tmp"

// Create writes a new file durably, or leaves none. It never replaces a file. SyncFolder makes the
// name durable.
func Create(name string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

// Replace writes a file by a rename: a reader, also after a crash, finds the complete old or new
// content. It keeps the mode and the owner of an old file; mode is for a new one. SyncFolder makes
// the change durable. Only one caller at a time may write a name.
func Replace(name string, content []byte, mode fs.FileMode) error {
	temporary := name + TemporarySuffix
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, likeOld(f, name), f.Sync(), f.Close()); err == nil {
		err = os.Rename(temporary, name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return nil
}

// likeOld gives f the mode and the owner of the file at name: neither the umask nor an edit by root
// must take the file from its readers.
func likeOld(f *os.File, name string) error {
	old, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	now, err := f.Stat()
	if err != nil {
		return err
	}
	was, ok := old.Sys().(*syscall.Stat_t)
	is, same := now.Sys().(*syscall.Stat_t)
	if ok && same && (was.Uid != is.Uid || was.Gid != is.Gid) {
		if err := f.Chown(int(was.Uid), int(was.Gid)); err != nil {
			return fmt.Errorf("keeping the owner of %s: %w; run this as its owner, or as root", name, err)
		}
	}
	return f.Chmod(old.Mode().Perm())
}

// SyncFolder makes earlier changes of names in a folder durable.
func SyncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// WriteDurably is Replace and SyncFolder.
func WriteDurably(name string, content []byte, mode fs.FileMode) error {
	if err := Replace(name, content, mode); err != nil {
		return err
	}
	return SyncFolder(filepath.Dir(name))
}

// ErrLocked: another process holds the lock.
var ErrLocked = errors.New("another process holds the lock")

// Lock locks the file at name, which it creates with mode if needed, against every other open of it
// until Unlock, or until the process exits. The file stays: if it were removed, one process could
// lock it while another creates and locks a new one.
func Lock(name string, mode fs.FileMode) (*os.File, error) {
	// For reading only: a disk with files open for writing cannot be remounted read-only.
	f, err := os.OpenFile(name, os.O_RDONLY|os.O_CREATE|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", name, err), f.Close())
	}
	return f, nil
}

// Unlock releases a lock. Otherwise a child process that has not reached its exec yet would keep it.
func Unlock(f *os.File) error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}
