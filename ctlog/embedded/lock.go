// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/internal/files"
)

// A lock may be held for a moment by a command that reads its holder, or by a process that is
// being killed. A short wait avoids a needless refusal.
const (
	lockAttempts = 10
	lockPause    = 20 * time.Millisecond
)

// Holder is the process that has a log open for writing.
type Holder struct {
	PID   int       `json:"pid"`
	Host  string    `json:"host"`
	Since time.Time `json:"since"`
}

// LockedError states that another process has the log open for writing.
type LockedError struct {
	Path   string // the directory or the guard
	Holder Holder // its PID is zero if unknown
}

// Error names the holder.
func (e *LockedError) Error() string {
	holder := "another process"
	if e.Holder.PID != 0 {
		holder = fmt.Sprintf("process %d on host %s (since %s)", e.Holder.PID, e.Holder.Host, e.Holder.Since.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("%s is in use by %s; a log has one writer only: stop that one, or submit to it over HTTP", e.Path, holder)
}

// lockFiles returns the files that a log's only writer locks, by what they lock: two copies of a
// directory may share a guard, and would otherwise fork. The lock is flock, which belongs to an
// open file: two logs within one process would share the record locks (fcntl) that Tessera takes.
func (cfg Config) lockFiles() [2]struct{ subject, path string } {
	return [2]struct{ subject, path string }{{cfg.Dir, filepath.Join(cfg.Dir, lockFile)}, {cfg.Guard, cfg.Guard + ".lock"}}
}

// lock locks the directory and the guard, or fails with *LockedError. Each file names its holder.
// The kernel releases the lock when the process exits; the content is then stale and has no effect.
func (l *Log) lock() error {
	host, _ := os.Hostname()
	content, err := json.Marshal(Holder{PID: os.Getpid(), Host: host, Since: l.cfg.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	for _, it := range l.cfg.lockFiles() {
		var held *os.File
		for range lockAttempts {
			if held, err = files.Lock(it.path, 0o644); !errors.Is(err, files.ErrLocked) {
				break
			}
			time.Sleep(lockPause)
		}
		if errors.Is(err, files.ErrLocked) {
			err = &LockedError{Path: it.subject, Holder: readHolder(it.path)}
		}
		if err == nil {
			l.locks = append(l.locks, held)
			err = os.WriteFile(it.path, append(content, '\n'), 0o644)
		}
		if err != nil {
			return fmt.Errorf("opening log %s: %w", l.cfg.Name, explain(it.subject, err))
		}
	}
	return nil
}

func (l *Log) unlock() error {
	var errs []error
	for _, held := range l.locks {
		errs = append(errs, files.Unlock(held))
	}
	l.locks = nil
	return errors.Join(errs...)
}

// readHolder reads what lock writes, which may be incomplete or missing.
func readHolder(path string) (h Holder) {
	content, err := files.Read(path, 4<<10)
	if err == nil {
		_ = json.Unmarshal(content, &h)
	}
	return h
}

// holderOf returns the holder of the lock at path; nil if there is none.
func holderOf(path string) (*Holder, error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	held, err := files.Lock(path, 0o644)
	if errors.Is(err, files.ErrLocked) {
		h := readHolder(path)
		return &h, nil
	}
	if err == nil {
		err = files.Unlock(held)
	}
	return nil, err
}
