// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog"
)

const (
	// minFree is the free space that the log requires before it accepts an entry: a batch writes
	// a few MiB at most, and the disk must not fill up in the middle of one.
	minFree = 32 << 20
	// spareFiles is how many files this process must still be able to open before the log accepts an
	// entry.
	spareFiles = 64
	// storageInterval is how often an open log checks its storage.
	storageInterval = time.Second
)

var errReadOnly = errors.New("is on a filesystem that is mounted read-only; mount it writable, or look at the kernel's log for why it no longer is")

// StorageError states that a log's directory or guard cannot be written at present: the disk
// is full or read-only, or of a kind that is unsafe for a log.
type StorageError struct {
	Path string
	Err  error
}

// Error returns the path and the sentence.
func (e *StorageError) Error() string { return fmt.Sprintf("%s %v", e.Path, e.Err) }

// Unwrap returns the sentence without the path.
func (e *StorageError) Unwrap() error { return e.Err }

// storage is the result of a check of the log's storage.
type storage struct {
	free uint64 // bytes, for this user
	err  error  // nil if the log can store an entry
}

// checkStorage refuses a log whose directory or guard is on an unsuitable filesystem. It returns
// the free space for the directory.
func (cfg Config) checkStorage() (free uint64, err error) {
	free, err = statFilesystem(cfg.Dir)
	_, errGuard := statFilesystem(filepath.Dir(cfg.Guard))
	return free, errors.Join(err, errGuard)
}

// checkSpace refuses to accept an entry if less than the reserve is free.
func (cfg Config) checkSpace(free uint64) error {
	if free < cfg.reserve {
		return &StorageError{cfg.Dir, fmt.Errorf("has %d MiB of free disk space left; at least %d MiB are needed to accept an entry: free some", free>>20, cfg.reserve>>20)}
	}
	return nil
}

// checkDescriptors refuses to accept an entry if few file descriptors are free. The kernel assigns the
// lowest free one.
func (cfg Config) checkDescriptors() error {
	var limit syscall.Rlimit
	descriptor, err := syscall.Open(cfg.Dir, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(syscall.Close(descriptor), syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	}
	if err == nil && uint64(descriptor)+cfg.spareFiles > limit.Cur {
		err = fmt.Errorf("nearly all of the %d files that this process may open are open; raise the limit (ulimit -n, LimitNOFILE)", limit.Cur)
	}
	if err != nil {
		return &ctlog.RetryableError{After: retryAfter, Err: fmt.Errorf("opening a file: %w", err)}
	}
	return nil
}

// watchStorage checks the storage until ctx ends. Submit reads only the result: without free file
// descriptors, or on a disk that is read-only, Tessera would panic in a goroutine of its own.
func (l *Log) watchStorage(ctx context.Context) {
	ticker := time.NewTicker(storageInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_ = l.checkStorage()
		case <-ctx.Done():
			return
		}
	}
}

// checkStorage checks whether the log can store an entry now.
func (l *Log) checkStorage() error {
	free, err := l.cfg.checkStorage()
	if err == nil {
		err = l.cfg.checkSpace(free)
	}
	if err == nil {
		err = l.cfg.checkDescriptors()
	}
	l.storage.Store(&storage{free, err})
	return err
}

// explain turns the error of a failed write into one that states what to do, where an
// operator can fix the cause.
func explain(path string, err error) error {
	switch {
	case errors.As(err, new(*StorageError)):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &StorageError{path, fmt.Errorf("is on a full disk; free some space: %w", err)}
	case errors.Is(err, syscall.EROFS):
		return &StorageError{path, fmt.Errorf("%w: %w", errReadOnly, err)}
	case errors.Is(err, fs.ErrPermission):
		return &StorageError{path, fmt.Errorf("is not writable for this user: %w", err)}
	default:
		return err
	}
}
