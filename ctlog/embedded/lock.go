// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// A lock may be held for a moment by a command that reads its holder, or by a process that is
// being killed. A short wait avoids a needless refusal.
const (
	lockAttempts = 10
	lockPause    = 20 * time.Millisecond
)

// lock is an exclusive lock on a file that names its holder. The kernel releases it whenever
// the process ends; the content is then stale and has no effect.
//
// It is flock, which belongs to an open file: two logs within one process would share the
// record locks (fcntl) that Tessera takes.
type lock struct{ file *os.File }

// acquire takes the lock of subject, with its file at path, or fails with *LockedError.
func acquire(path, subject string, now time.Time) (*lock, error) {
	// Open for reading only: a disk with files open for writing cannot be remounted read-only.
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, explain(subject, fmt.Errorf("locking: %w", err))
	}
	for range lockAttempts {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) && !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		time.Sleep(lockPause)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		holder, _ := readHolder(f)
		return nil, errors.Join(&LockedError{Path: subject, Holder: holder}, f.Close())
	}
	l := &lock{file: f}
	if err == nil {
		err = l.sign(now)
	}
	if err != nil {
		return nil, errors.Join(explain(subject, fmt.Errorf("locking: %w", err)), l.release())
	}
	return l, nil
}

// sign writes the holder into the lock's file. The lock itself does not depend on it.
func (l *lock) sign(now time.Time) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	content, err := json.Marshal(Holder{PID: os.Getpid(), Host: host, Since: now.UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	return os.WriteFile(l.file.Name(), append(content, '\n'), 0o644)
}

func (l *lock) release() error {
	if l == nil {
		return nil
	}
	// Best effort: without a lock, the content has no effect.
	_ = os.Truncate(l.file.Name(), 0)
	return l.file.Close()
}

// readHolder reads what sign wrote, which may be incomplete or missing.
func readHolder(r io.Reader) (Holder, error) {
	var h Holder
	err := json.NewDecoder(io.LimitReader(r, 4<<10)).Decode(&h)
	return h, err
}

// holderOf returns the holder of the lock at path, without taking it; nil if there is none.
func holderOf(path string) (*Holder, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	// Shared, and for a moment only: a writer that starts meanwhile tries again.
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		h, _ := readHolder(f)
		return &h, nil
	}
	return nil, err
}
