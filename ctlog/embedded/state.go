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

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// state is what the log's files say.
type state struct {
	published *checkpoint // nil if it cannot be read
	guard     guardFile
	head      treeHead // of the directory
}

// examine reads guard, checkpoint and directory, and proves that they belong together. It changes
// nothing, and the log may be in use. Its error is *RefusedError if the log must not sign; any other
// error is temporary, or is a wrong setting.
func (cfg Config) examine(ctx context.Context, key *logKey) (s state, err error) {
	// In this order: a log in use grows meanwhile, but guard and checkpoint never pass its tree.
	d := directory{cfg.Dir}
	var guardErr error
	s.guard, guardErr = readGuard(cfg.Guard, cfg.Origin, key.LogID())
	s.published, err = d.checkpoint(noteVerifier{cfg.Origin, key.PublicKey}, nil)
	switch {
	case errors.Is(guardErr, errOtherLog) && err != nil:
		return s, keypath.Errorf([]string{"key"}, "neither %s nor %s is of the log %s with this key: key or origin are another log's (%w)", cfg.Dir, cfg.Guard, cfg.Origin, guardErr)
	case guardErr == nil && err == nil:
		s.head, err = d.verify(ctx, s.guard.head(), s.published.head)
	default:
		// An operator needs the size of a refused log to find the newest copy of a directory.
		if head, errHead := d.head(); errHead == nil {
			s.head = head
		}
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
	status := Status{Name: cfg.Name, Origin: cfg.Origin, LogID: id[:], TreeSize: s.head.size, RootHash: s.head.root[:]}
	if s.published != nil {
		status.CheckpointSize, status.CheckpointTime = s.published.head.size, s.published.time()
	}
	return status
}

// Inspection is what can be reported about a log without opening it, also while it is in use.
type Inspection struct {
	Status
	// Holder has the log open for writing; nil for no process.
	Holder *Holder `json:"holder,omitempty"`
	// GuardSize and GuardTime are the guard's.
	GuardSize uint64    `json:"guard_size"`
	GuardTime time.Time `json:"guard_time"`
	// Warnings list settings that work but should be changed.
	Warnings []string `json:"warnings,omitempty"`
}

// Inspect reads a log and changes nothing. Its Err is the error with which Open would refuse
// the log now.
func Inspect(ctx context.Context, cfg Config) (*Inspection, error) {
	cfg, key, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	holder, err := holderOf(cfg.lockFiles()[0].path)
	if err != nil {
		return nil, fmt.Errorf("inspecting log %s: %w", cfg.Name, err)
	}
	f, storageErr := cfg.checkStorage()
	s, err := cfg.examine(ctx, key)
	in := &Inspection{Status: cfg.status(key, s), Holder: holder, GuardSize: s.guard.TreeSize, GuardTime: s.guard.Updated}
	in.FreeBytes = f.free
	if in.Err = err; err == nil {
		in.Err = errors.Join(storageErr, cfg.checkSpace(f.free))
	}
	if sameDevice(cfg.Dir, filepath.Dir(cfg.Guard)) {
		in.Warnings = append(in.Warnings, fmt.Sprintf("the guard %s is on the same disk as the log; what restores the disk would restore both, and mayfly could not detect it", cfg.Guard))
	}
	return in, nil
}

// Check is Open without its effects: it locks and changes nothing, also while the log is in use.
// err is the error that Open would return, except for locks. refused is why the opened log would
// accept no entry; nil if it would accept entries. The returned log has a name and a key, and
// nothing else works.
func Check(ctx context.Context, cfg Config) (log *Log, refused, err error) {
	cfg, key, err := cfg.complete()
	if err != nil {
		return nil, nil, err
	}
	f, err := cfg.checkStorage()
	if err == nil {
		err = cfg.checkWritable()
	}
	if err != nil {
		return nil, nil, err
	}
	log = &Log{cfg: cfg, key: key}
	_, err = cfg.examine(ctx, key)
	switch {
	case errors.As(err, new(*RefusedError)):
		return log, err, nil
	case err != nil:
		return nil, nil, explain(cfg.Dir, err)
	default:
		return log, cfg.checkSpace(f.free), nil
	}
}

// checkWritable checks that this process may lock and change the log, without doing either.
func (cfg Config) checkWritable() error {
	const write = 2 // W_OK
	for _, path := range []string{cfg.Dir, filepath.Join(cfg.Dir, issuerDir), filepath.Dir(cfg.Guard)} {
		if err := syscall.Access(path, write); err != nil {
			return explain(path, fmt.Errorf("opening log %s: writing to %s: %w", cfg.Name, path, err))
		}
	}
	for _, it := range cfg.lockFiles() {
		err := syscall.Access(it.path, write)
		if info, statErr := os.Lstat(it.path); statErr == nil && !info.Mode().IsRegular() {
			err = errors.New("it is no regular file")
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return explain(it.path, fmt.Errorf("opening log %s: locking %s: %w", cfg.Name, it.path, err))
		}
	}
	return nil
}

// sameDevice reports whether both are on one device; false if that is unknown.
func sameDevice(a, b string) bool {
	var x, y syscall.Stat_t
	return syscall.Stat(a, &x) == nil && syscall.Stat(b, &y) == nil && x.Dev == y.Dev
}
