// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"errors"
	"time"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Window is when a log is submitted to. A log's key needs to be known to verifiers before
// its first timestamp, as an intermediate does before its first certificate: until Begin it
// is in the trusted root alone.
type Window struct {
	// Begin is the time of the first submission; zero for at once.
	Begin time.Time
	// End is when submissions end; zero for never.
	End time.Time
}

// Holds tells whether the log is submitted to at now.
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

// open returns the logs that are submitted to now.
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
