// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Status is the state of a log.
type Status struct {
	Name   string `json:"name"`
	Origin string `json:"origin"`
	LogID  []byte `json:"log_id"`
	// TreeSize and RootHash are of the newest tree for which the log may sign; an Inspection
	// has those of the directory, even if they are refused.
	TreeSize       uint64    `json:"tree_size"`
	RootHash       []byte    `json:"root_hash"`
	CheckpointSize uint64    `json:"checkpoint_size"` // of the published one
	CheckpointTime time.Time `json:"checkpoint_time"`
	Pending        int       `json:"pending"`    // entries that wait to be stored
	FreeBytes      uint64    `json:"free_bytes"` // on the disk
	// Err states why the log accepts no entry now, and what to do: *RefusedError,
	// *StorageError or another. It is nil if the log is ready.
	Err error `json:"-"`
}

// state is what the log's files say.
type state struct {
	published *reader.Checkpoint // nil if it cannot be read
	guard     *guardFile
	head      reader.Head // of the directory
}

// examine reads guard, checkpoint and directory, and proves that they belong together. It changes
// nothing, and the log may be in use. Its error is *RefusedError if the log must not sign; any other
// error is temporary, or is a wrong setting.
func (cfg Config) examine(key *logKey) (s state, err error) {
	// In this order: a log in use grows meanwhile, but guard and checkpoint never pass its tree.
	d := directory{cfg.Dir}
	var guardErr error
	s.guard, guardErr = readGuard(cfg.Guard, cfg.Origin, key.LogID())
	s.published, err = d.checkpoint(reader.NoteVerifier{Origin: cfg.Origin, Key: key.PublicKey}, nil)
	switch {
	case errors.Is(guardErr, errOtherLog) && err != nil:
		return s, keypath.Errorf([]string{"key"}, "neither %s nor %s is of the log %s with this key: key or origin are another log's (%w)", cfg.Dir, cfg.Guard, cfg.Origin, guardErr)
	case guardErr == nil && err == nil:
		s.head, err = d.verify(s.guard.head(), s.published.Head)
	default:
		// An operator needs the size of a refused log to find the newest copy of a directory.
		s.head, _ = d.head()
	}
	if guardErr != nil {
		return s, &RefusedError{Log: cfg.Name, Reason: ReasonGuard, Err: guardErr}
	}
	if err != nil {
		err = fmt.Errorf("%w (the guard: %s)", err, s.guard.head())
		if refusal := refusalFor(cfg.Name, err); refusal != nil {
			err = refusal
		}
	}
	return s, err
}

// status returns the sizes in s.
func (cfg Config) status(key *logKey, s state) Status {
	id := key.LogID()
	status := Status{Name: cfg.Name, Origin: cfg.Origin, LogID: id[:], TreeSize: s.head.Size, RootHash: s.head.Root[:]}
	if s.published != nil {
		status.CheckpointSize, status.CheckpointTime = s.published.Head.Size, s.published.Time()
	}
	return status
}

// Inspection is what can be reported about a log without opening it, also while it is in use.
type Inspection struct {
	Status
	Holder    *Holder   `json:"holder,omitempty"` // has the log open for writing; nil for no process
	GuardSize uint64    `json:"guard_size"`
	GuardTime time.Time `json:"guard_time"`
	Warnings  []string  `json:"warnings,omitempty"` // settings that work but should be changed
}

// Inspect reads a log and changes nothing. Its Err is the error with which Open would refuse
// the log now.
func Inspect(_ context.Context, cfg Config) (*Inspection, error) {
	cfg, key, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	holder, err := holderOf(cfg.lockFiles()[0].path)
	if err != nil {
		return nil, fmt.Errorf("looking for the writer of log %s: %w", cfg.Name, err)
	}
	free, storageErr := cfg.checkStorage()
	s, err := cfg.examine(key)
	in := &Inspection{Status: cfg.status(key, s), Holder: holder, GuardSize: s.guard.TreeSize, GuardTime: s.guard.Updated}
	in.FreeBytes = free
	if in.Err = err; err == nil {
		in.Err = errors.Join(storageErr, cfg.checkSpace(free))
	}
	var dir, guard syscall.Stat_t
	if syscall.Stat(cfg.Dir, &dir) == nil && syscall.Stat(filepath.Dir(cfg.Guard), &guard) == nil && dir.Dev == guard.Dev {
		in.Warnings = append(in.Warnings, fmt.Sprintf("the guard %s is on the same disk as the log; what restores the disk would restore both, and mayfly could not detect it", cfg.Guard))
	}
	return in, nil
}

// Check is Open without its effects, also while the log is in use. err is the error that Open would
// return, except for locks. refused is why the opened log would accept no entry. The returned log
// has a name and a key, and nothing else works.
func Check(_ context.Context, cfg Config) (log *Log, refused, err error) {
	cfg, key, free, err := cfg.openable()
	if err != nil {
		return nil, nil, err
	}
	log = &Log{cfg: cfg, key: key}
	_, err = cfg.examine(key)
	switch {
	case errors.As(err, new(*RefusedError)):
		return log, err, nil
	case err != nil:
		return nil, nil, explain(cfg.Dir, err)
	default:
		return log, cfg.checkSpace(free), nil
	}
}

// openable checks all that stops a log from being opened, but its locks.
func (cfg Config) openable() (_ Config, key *logKey, free uint64, err error) {
	if cfg, key, err = cfg.complete(); err != nil {
		return cfg, nil, 0, err
	}
	if free, err = cfg.checkStorage(); err == nil {
		err = cfg.checkWritable()
	}
	return cfg, key, free, err
}

// checkWritable checks that this process may lock and change the log, without doing either. Tessera
// panics where it cannot open its lock.
func (cfg Config) checkWritable() error {
	paths := []string{cfg.Dir, filepath.Join(cfg.Dir, stateDir), filepath.Join(cfg.Dir, issuerDir), filepath.Dir(cfg.Guard)}
	for _, lock := range []string{cfg.lockFiles()[0].path, cfg.lockFiles()[1].path, filepath.Join(cfg.Dir, treeStateLock)} {
		info, err := os.Lstat(lock)
		if err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("opening log %s: %s is no regular file", cfg.Name, lock)
		}
		if err == nil {
			paths = append(paths, lock)
		}
	}
	for _, path := range paths {
		const write = 2 // W_OK
		if err := syscall.Access(path, write); err != nil {
			return explain(path, fmt.Errorf("opening log %s: writing to %s: %w", cfg.Name, path, err))
		}
	}
	return nil
}
