// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"time"

	"github.com/mayfly-ca/mayfly/internal/breaker"
)

const (
	// breakerThreshold is how many failures in a row open a breaker.
	breakerThreshold = 5
	// probeInterval is how long a breaker stays open before one submission tries the log
	// again. The probe costs that submission the hedge delay at most.
	probeInterval = 5 * time.Second
	// maxRest bounds a log's Retry-After, so that a mistake of the log does not end its use.
	maxRest = time.Minute
	// lineInterval is the minimum time between log lines about failures of one log with the
	// same result.
	lineInterval = time.Minute
)

// newBreaker returns the breaker of one log. While it is open, a race asks the log only after
// all others; while it is half-open, the next submission asks this log first.
func newBreaker() *breaker.Breaker {
	return &breaker.Breaker{Threshold: breakerThreshold, Interval: probeInterval, MaxRest: maxRest}
}

// LogStatus is the condition of a log at one moment. LastError may quote the log's answer.
type LogStatus struct {
	// Name is the log's name.
	Name string
	breaker.Status
}

// Status returns the condition of each log, in order of preference.
func (l *Logs) Status() []LogStatus {
	now := time.Now()
	list := make([]LogStatus, 0, len(l.logs))
	for _, m := range l.logs {
		list = append(list, LogStatus{Name: m.Name(), Status: m.breaker.StatusAt(now)})
	}
	return list
}
