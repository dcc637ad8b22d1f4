// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"errors"
	"fmt"
	"time"
)

// Reason is why a log no longer signs.
type Reason string

// The reasons. None of them is temporary, but an operator may replace a damaged or older
// directory with the newest one before the next start.
const (
	// ReasonOlder: the directory holds fewer entries than the log has already signed.
	ReasonOlder Reason = "older"
	// ReasonForked: the directory holds another history than the log has already signed.
	ReasonForked Reason = "forked"
	// ReasonGuard: the guard is missing, cannot be read, or is that of another log.
	ReasonGuard Reason = "guard"
	// ReasonDamaged: files of the directory are missing, cut short or altered.
	ReasonDamaged Reason = "damaged"
)

// RefusedError states that the log refuses to sign, and what to do. The refusal lasts until
// the log is opened again.
type RefusedError struct {
	Log    string
	Reason Reason
	// Err states what was found.
	Err error
}

// Error returns what was found and what to do about it.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("log %s refuses to sign: %v; %s", e.Log, e.Err, e.Remedy())
}

// Unwrap returns what was found.
func (e *RefusedError) Unwrap() error { return e.Err }

// Remedy returns what the operator should do, in one sentence.
func (e *RefusedError) Remedy() string {
	const newLog = "otherwise create a new log with a new name and key (mayfly ctlog init), publish its key and switch to it: see \"When a log refuses to sign\" in docs/ctlog.md"
	switch e.Reason {
	case ReasonOlder:
		return "signing now would give other entries the places of those that are missing; if the newest directory still exists, put it back and start again; " + newLog
	case ReasonForked:
		return "signing now would fork the log; if the directory that the guard belongs to still exists, put it back and start again; " + newLog
	case ReasonGuard:
		return "without the guard it is unknown whether the directory is the newest; if the guard's newest file still exists, put it back and start again; " + newLog
	default:
		return "run mayfly ctlog fsck; if an undamaged copy of this very state exists, put it back and start again; " + newLog
	}
}

// refusalFor returns the refusal that err is or causes; nil for any other error.
func refusalFor(name string, err error) *RefusedError {
	var refusal *RefusedError
	if errors.As(err, &refusal) {
		return refusal
	}
	for sentinel, reason := range map[error]Reason{errOlder: ReasonOlder, errDamaged: ReasonDamaged, errInconsistent: ReasonForked} {
		if errors.Is(err, sentinel) {
			return &RefusedError{Log: name, Reason: reason, Err: err}
		}
	}
	return nil
}

// Holder is the process that has a log open for writing.
type Holder struct {
	PID   int       `json:"pid"`
	Host  string    `json:"host"`
	Since time.Time `json:"since"`
}

// LockedError states that another process has the log open for writing.
type LockedError struct {
	// Path is the directory or the guard that is locked.
	Path string
	// Holder is the process that locked it; its PID is zero if unknown.
	Holder Holder
}

// Error names the holder.
func (e *LockedError) Error() string {
	holder := "another process"
	if e.Holder.PID != 0 {
		holder = fmt.Sprintf("process %d on host %s (since %s)", e.Holder.PID, e.Holder.Host, e.Holder.Since.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("%s is in use by %s; a log has one writer only: stop that one, or submit to it over HTTP", e.Path, holder)
}

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
