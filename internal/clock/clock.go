// SPDX-License-Identifier: Apache-2.0

// Package clock decides whether this machine's wall clock can be trusted. Two observations count: a
// step against a clock that no program can set, and the signed timestamps of several logs, which are
// clocks of other machines. Package app may import it.
package clock

import (
	"fmt"
	"sync"
	"time"
)

const (
	maxStep = 2 * time.Minute // the largest step that is no fault
	// settle is how long the wall clock must keep a new time until that time is trusted. It bounds the
	// outage after a pause of a virtual machine of which its kernel does not know.
	settle = 5 * time.Minute
	// evidenceAge is how long a timestamp counts. While nothing is issued there are no new ones, so the
	// logs' disagreement stops issuance for as long.
	evidenceAge   = time.Minute
	enough        = 2                    // logs that must disagree: a single one may be wrong itself
	maxDifference = 365 * 24 * time.Hour // bounds what a log can state
)

// Clock watches the wall clock. It is safe for concurrent use. An offset is the difference of a clock
// and the steady clock; it is constant while both run.
type Clock struct {
	now           func() time.Time
	steady        func() time.Duration
	behind, ahead time.Duration // how far a log's timestamp may be from the wall clock

	mu        sync.Mutex    // guards the fields below
	trusted   time.Duration // offset of the wall clock; it follows small corrections
	stepped   time.Duration // offset after the last step; trusted if there is none
	steppedAt time.Duration // steady time of the last step
	evidence  map[string]evidence
}

// evidence is the offset of a log's last timestamp, and when it came.
type evidence struct{ offset, at time.Duration }

// New returns a Clock that trusts the present time. now is the wall clock, and steady a clock that is
// never set; nil for those of the machine. Where the kernel permits it, the machine's steady clock
// includes the time that the machine was suspended.
func New(now func() time.Time, steady func() time.Duration, behind, ahead time.Duration) *Clock {
	if steady == nil {
		now, steady = time.Now, sinceBoot
	}
	c := &Clock{now: now, steady: steady, behind: behind, ahead: ahead, evidence: map[string]evidence{}}
	_, c.trusted = c.read()
	c.stepped = c.trusted
	return c
}

// read returns the steady time and the offset of the wall clock.
func (c *Clock) read() (steady, offset time.Duration) {
	steady = c.steady()
	return steady, time.Duration(c.now().UnixNano()) - steady
}

// Observe records that log has just signed the timestamp at.
func (c *Clock) Observe(log string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	steady, offset := c.read()
	difference := at.Sub(time.Unix(0, int64(steady+offset)))
	c.evidence[log] = evidence{offset + max(min(difference, maxDifference), -maxDifference), steady}
}

// The states of the kernel's clock, as Kernel reports them. They decide nothing.
const (
	Synchronised   = "synchronised"
	Unsynchronised = "unsynchronised"
	Unknown        = "unknown"
)

// Check returns why the wall clock is not trusted, or nil.
func (c *Clock) Check() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	steady, offset := c.read()
	agree, disagree := 0, 0
	var example time.Duration
	for _, e := range c.evidence {
		ahead := e.offset - offset
		switch {
		case steady-e.at > evidenceAge:
		case ahead < -c.behind || ahead > c.ahead:
			disagree++
			example = ahead
		default:
			agree++
		}
	}
	step := offset - c.trusted
	wait := c.follow(steady, offset, agree > 0 && disagree == 0)
	switch {
	case disagree >= enough && disagree > agree:
		return fmt.Errorf("the wall clock differs from the signed timestamps of %d logs, of one by %s, and agrees with %d: set the clock of this machine",
			disagree, example.Round(time.Millisecond), agree)
	case wait > 0:
		return fmt.Errorf("the wall clock has stepped by %s against the monotonic clock; it is trusted when it steps back, when a log confirms it, or in %s unless it steps again",
			step.Round(time.Second), wait.Round(time.Second))
	}
	return nil
}

// follow trusts the offset if it is no step, if logs confirm it, or if it has remained. Otherwise it
// returns how long it must remain. The caller holds c.mu.
func (c *Clock) follow(steady, offset time.Duration, confirmed bool) (wait time.Duration) {
	if (offset-c.trusted).Abs() > maxStep && !confirmed {
		if (offset - c.stepped).Abs() > maxStep {
			c.stepped, c.steppedAt = offset, steady
		}
		if wait = settle - (steady - c.steppedAt); wait > 0 {
			return wait
		}
	}
	c.trusted, c.stepped = offset, offset
	return 0
}
