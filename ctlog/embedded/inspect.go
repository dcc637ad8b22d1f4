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
)

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
	d := directory{cfg.Dir}
	in := &Inspection{Status: Status{Name: cfg.Name, Origin: cfg.Origin, LogID: key.id[:]}}
	if in.Holder, err = holderOf(filepath.Join(cfg.Dir, lockFile)); err != nil {
		return nil, fmt.Errorf("inspecting log %s: %w", cfg.Name, err)
	}
	f, err := statFilesystem(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("inspecting log %s: %w", cfg.Name, err)
	}
	in.FreeBytes = f.free
	in.Err = errors.Join(checkFilesystem(cfg.Dir, f), checkSpace(cfg.Dir, f, cfg.reserve))
	if err := in.compare(ctx, cfg, d, key); err != nil {
		in.Err = err
	}
	if sameDevice(cfg.Dir, filepath.Dir(cfg.Guard)) {
		in.Warnings = append(in.Warnings, fmt.Sprintf("the guard %s is on the same disk as the log; what restores the disk would restore both, and the guard could not tell", cfg.Guard))
	}
	return in, nil
}

// Check is Open without its effects: it locks and changes nothing, also while the log is in use.
// err is the error that Open would return, except for locks. refused is why the opened log would
// accept no entry; nil if it would accept entries. The returned log has a name and a key, and
// accepts no entries.
func Check(ctx context.Context, cfg Config) (log *Log, refused, err error) {
	cfg, key, err := cfg.complete()
	if err != nil {
		return nil, nil, err
	}
	l := &Log{name: cfg.Name, key: key, logger: cfg.Logger}
	if err := l.checkStorage(ctx, cfg); err != nil {
		return nil, nil, err
	}
	if err := checkWritable(cfg); err != nil {
		return nil, nil, err
	}
	in := &Inspection{}
	err = in.compare(ctx, cfg, directory{cfg.Dir}, key)
	var refusal *RefusedError
	switch {
	case errors.As(err, &refusal) && errors.Is(refusal.Err, errOtherLog) && in.CheckpointTime.IsZero():
		return nil, nil, otherLog(cfg, refusal.Err)
	case refusal != nil:
		return l, refusal, nil
	case err != nil:
		return nil, nil, explain(cfg.Dir, err)
	}
	f, err := statFilesystem(cfg.Dir)
	if err != nil {
		return nil, nil, err
	}
	return l, checkSpace(cfg.Dir, f, cfg.reserve), nil
}

// checkWritable checks that this process may lock and change the log, without doing either.
func checkWritable(cfg Config) error {
	const write = 2 // W_OK
	for _, path := range []string{cfg.Dir, filepath.Join(cfg.Dir, issuerDir), filepath.Dir(cfg.Guard)} {
		if err := syscall.Access(path, write); err != nil {
			return explain(path, fmt.Errorf("opening log %s: writing to %s: %w", cfg.Name, path, err))
		}
	}
	for _, path := range []string{filepath.Join(cfg.Dir, lockFile), cfg.Guard + ".lock"} {
		err := syscall.Access(path, write)
		if info, statErr := os.Lstat(path); statErr == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is no regular file", path)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return explain(path, fmt.Errorf("opening log %s: locking: %w", cfg.Name, err))
		}
	}
	return nil
}

// compare reads the directory and the guard, and returns why they do not belong together.
func (in *Inspection) compare(ctx context.Context, cfg Config, d directory, key *logKey) error {
	// In this order: a log in use grows meanwhile, but its guard never passes its directory.
	file, guardErr := readGuard(cfg.Guard, cfg.Origin, key.id)
	if guardErr == nil {
		in.GuardSize, in.GuardTime = file.TreeSize, file.Updated
	}
	published, err := readCheckpoint(d, cfg.Origin, key)
	if err == nil {
		in.CheckpointSize, in.CheckpointTime = published.head.size, time.UnixMilli(int64(published.timestamp)).UTC()
	}
	// Report the size even if the log is refused: an operator needs it to find the newest
	// copy of a directory.
	if head, err := d.head(); err == nil {
		in.TreeSize, in.RootHash = head.size, head.root[:]
	}
	if guardErr != nil {
		return &RefusedError{Log: cfg.Name, Reason: ReasonGuard, Err: guardErr}
	}
	if err == nil {
		err = checkPublished(ctx, d, published.head)
	}
	if err == nil {
		var head treeHead
		if head, err = d.verify(ctx, file.head()); err == nil {
			in.TreeSize, in.RootHash = head.size, head.root[:]
		}
	}
	err = describe(err, file.head())
	if refusal := refusalFor(cfg.Name, err); refusal != nil {
		return refusal
	}
	return err
}

// sameDevice reports whether both are on one device; false if that is unknown.
func sameDevice(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	if errX != nil || errY != nil {
		return false
	}
	statX, okX := x.Sys().(*syscall.Stat_t)
	statY, okY := y.Sys().(*syscall.Stat_t)
	return okX && okY && statX.Dev == statY.Dev
}
