// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"fmt"
	"time"
)

// Ready returns nil if the log can accept an entry now. The error is for the operator.
func (l *Log) Ready() error {
	if refusal := l.refusal.Load(); refusal != nil {
		return refusal
	}
	l.admission.Lock()
	closing := l.closing
	l.admission.Unlock()
	if closing {
		return fmt.Errorf("log %s takes no entries: %w", l.name, errClosed)
	}
	if err := l.preflight(); err != nil {
		return err
	}
	if text := l.signError.Load(); text != nil {
		return fmt.Errorf("log %s publishes no checkpoint: %s", l.name, *text)
	}
	return nil
}

// Status is the state of a log.
type Status struct {
	Name   string `json:"name"`
	Origin string `json:"origin"`
	LogID  []byte `json:"log_id"`
	// TreeSize and RootHash are of the newest tree for which the log may sign; an Inspection
	// has those of the directory, even if they are refused.
	TreeSize uint64 `json:"tree_size"`
	RootHash []byte `json:"root_hash"`
	// CheckpointSize and CheckpointTime are of the published checkpoint.
	CheckpointSize uint64    `json:"checkpoint_size"`
	CheckpointTime time.Time `json:"checkpoint_time"`
	// Pending is how many entries wait to be stored.
	Pending int `json:"pending"`
	// FreeBytes is the free space on the disk.
	FreeBytes uint64 `json:"free_bytes"`
	// Err states why the log accepts no entry now, and what to do: *RefusedError,
	// *StorageError or another. It is nil if the log is ready.
	Err error `json:"-"`
}

// Status returns what Ready returns, and more.
func (l *Log) Status() Status {
	newest := l.guard.newest.Load()
	s := Status{
		Name: l.name, Origin: l.origin, LogID: l.key.id[:],
		TreeSize: newest.size, RootHash: newest.root[:],
		Pending: int(l.queued.Load()),
		Err:     l.Ready(),
	}
	if c, err := l.front.checkpoint(); err == nil {
		s.CheckpointSize, s.CheckpointTime = c.head.size, time.UnixMilli(int64(c.timestamp)).UTC()
	}
	if f, err := statFilesystem(l.directory.path); err == nil {
		s.FreeBytes = f.free
	}
	return s
}
