// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"errors"
	"fmt"
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
	first := map[Reason]string{
		ReasonOlder:   "signing now would give other entries the places of those that are missing; if the newest directory still exists, put it back and start again",
		ReasonForked:  "signing now would fork the log; if the directory that the guard belongs to still exists, put it back and start again",
		ReasonGuard:   "without the guard it is unknown whether the directory is the newest; if the guard's newest file still exists, put it back and start again",
		ReasonDamaged: "run mayfly ctlog fsck; if an undamaged copy of this very state exists, put it back and start again",
	}[e.Reason]
	return first + "; otherwise create a new log with a new name and key (mayfly ctlog init), publish its key and switch to it: see \"When a log refuses to sign\" in docs/ctlog.md"
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
