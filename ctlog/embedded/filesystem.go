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

// minFree is what must be left on the disk for an entry to be accepted: a batch writes a few
// MiB at most, and a disk that runs full in the middle of one helps nobody.
const minFree = 32 << 20

// filesystem is what is known of the one that holds a path.
type filesystem struct {
	// kind is the name of a kind that matters here, or empty.
	kind string
	// remote: other hosts may write it, and locks and fsync may not mean what they say.
	remote bool
	// volatile: it is gone after a restart of the machine.
	volatile bool
	readOnly bool
	free     uint64 // bytes, for this user
}

// checkFilesystem refuses what no log may live on.
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

// checkSpace refuses to write when less than reserve bytes are left.
func checkSpace(path string, f filesystem, reserve uint64) error {
	if f.free < reserve {
		return &StorageError{path, fmt.Errorf("has %d MiB of free disk space left; at least %d MiB are needed to accept an entry: free some", f.free>>20, reserve>>20)}
	}
	return nil
}

// explain turns the error of a failed write into one that says what to do, where the cause is
// one of those that an operator can mend.
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

// syncDir makes renames in a directory durable that have happened before the call.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// writeFile replaces a file, durably and at once: whoever reads it, after a crash too, finds
// the old content or the new. One caller at a time for each path.
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

// temporarySuffix marks a file that is being written. Nothing reads one.
const temporarySuffix = ".tmp"
