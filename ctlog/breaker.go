// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"time"

	"github.com/mayfly-ca/mayfly/internal/breaker"
)

const (
	// breakerThreshold is how many failures in a row open a breaker.
	breakerThreshold = 5
	// probeInterval is how long a breaker stays open before one submission asks the log
	// again. It costs that submission the hedge delay at most.
	probeInterval = 5 * time.Second
	// maxRest bounds a log's Retry-After, so that a slip of the log's does not end its use.
	maxRest = time.Minute
	// lineInterval is how far apart lines about failures of one log with the same result are.
	lineInterval = time.Minute
)

// newBreaker returns the breaker of one log. Open, it has the log asked only where no other
// can be; half-open, the next submission asks this log first.
func newBreaker() *breaker.Breaker {
	return &breaker.Breaker{Threshold: breakerThreshold, Interval: probeInterval, MaxRest: maxRest}
}

// LogStatus is how a log is doing at one moment. LastError may quote what the log answered.
type LogStatus struct {
	// Name is the log's.
	Name string
	breaker.Status
}

func (m *member) status(now time.Time) LogStatus {
	return LogStatus{Name: m.Name(), Status: m.breaker.StatusAt(now)}
}

// Status tells how each log is doing, in order of preference.
func (l *Logs) Status() []LogStatus {
	now := time.Now()
	list := make([]LogStatus, 0, len(l.logs))
	for _, m := range l.logs {
		list = append(list, m.status(now))
	}
	return list
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
