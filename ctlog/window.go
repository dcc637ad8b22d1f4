// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"errors"
	"time"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Window is when submissions to a log are allowed. Verifiers must know a log's key before its
// first timestamp, as they must know an intermediate before its first certificate: until
// Begin the log is only in the trusted root.
type Window struct {
	// Begin is the time of the first submission; zero for at once.
	Begin time.Time
	// End is when submissions end; zero for never.
	End time.Time
}

// Holds reports whether submissions to the log are allowed at now.
func (w Window) Holds(now time.Time) bool {
	return !now.Before(w.Begin) && (w.End.IsZero() || now.Before(w.End))
}

// Check refuses a window that ends before it begins. Its errors have key paths.
func (w Window) Check() error {
	if !w.End.IsZero() && !w.End.After(w.Begin) {
		return keypath.Errorf([]string{"retire_at"}, "the log would retire before it is used; retire_at must be after activate_at")
	}
	return nil
}

var errNoLogNow = errors.New("no log is in its time: each has retired, or is not active yet")

// open returns the logs to which submissions are allowed now.
func (l *Logs) open() []*member {
	now := l.now()
	var list []*member
	for _, m := range l.logs {
		if m.window.Holds(now) {
			list = append(list, m)
		}
	}
	return list
}
