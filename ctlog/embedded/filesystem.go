// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// minFree is the free space that the log requires before it accepts an entry: a batch writes
// a few MiB at most, and the disk must not fill up in the middle of one.
const minFree = 32 << 20

// filesystem describes the filesystem that holds a path.
type filesystem struct {
	// kind is the name of a kind that matters here, or empty.
	kind string
	// remote: other hosts may write it, and locks and fsync may not be reliable.
	remote bool
	// volatile: its content is lost at a restart of the machine.
	volatile bool
	readOnly bool
	free     uint64 // bytes, for this user
}

// checkFilesystem refuses filesystems that are unsuitable for a log.
func checkFilesystem(path string, f filesystem) error {
	switch {
	case f.remote:
		return &StorageError{path, fmt.Errorf("is on %s, where neither locks nor durable writes can be relied on; a log needs a local disk", f.kind)}
	case f.readOnly:
		return &StorageError{path, errors.New("is on a filesystem that is mounted read-only; mount it writable, or look at the kernel's log for why it no longer is")}
	default:
		return nil
	}
}

// checkSpace refuses to write if less than reserve bytes are free.
func checkSpace(path string, f filesystem, reserve uint64) error {
	if f.free < reserve {
		return &StorageError{path, fmt.Errorf("has %d MiB of free disk space left; at least %d MiB are needed to accept an entry: free some", f.free>>20, reserve>>20)}
	}
	return nil
}

// explain turns the error of a failed write into one that states what to do, where an
// operator can fix the cause.
func explain(path string, err error) error {
	var explained *StorageError
	switch {
	case err == nil || errors.As(err, &explained):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &StorageError{path, fmt.Errorf("is on a full disk; free some space: %w", err)}
	case errors.Is(err, syscall.EROFS):
		return &StorageError{path, fmt.Errorf("is on a filesystem that is mounted read-only; mount it writable, or look at the kernel's log for why it no longer is: %w", err)}
	case errors.Is(err, fs.ErrPermission):
		return &StorageError{path, fmt.Errorf("is not writable for this user: %w", err)}
	default:
		return err
	}
}

// syncDir makes earlier renames in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// writeFile replaces a file durably and atomically: a reader, also after a crash, finds the
// old content or the new. Only one caller at a time may write a path.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	temporary := path + temporarySuffix
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return syncDir(filepath.Dir(path))
}

// temporarySuffix marks a file that is being written. Such files are never read.
const temporarySuffix = ".tmp"
