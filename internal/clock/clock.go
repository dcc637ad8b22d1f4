// SPDX-License-Identifier: Apache-2.0

// Package clock decides whether this machine's wall clock can be trusted. Two observations count: a
// step against a clock that no program can set, and the signed timestamps of several logs, which are
// clocks of other machines. Package app may import it.
package clock

import (
	"cmp"
	"fmt"
	"sync"
	"time"
)

const (
	maxStep = 2 * time.Minute // the largest step that is no fault
	// settle is how long the wall clock must keep a new time until that time is trusted. It bounds the
	// outage after a pause of a virtual machine of which its kernel does not know.
	settle        = 5 * time.Minute
	evidenceAge   = time.Minute          // how long a timestamp counts
	probeInterval = 2 * time.Second      // of requests that ask logs which disagree
	enough        = 2                    // operators of logs that must disagree: a single one may be wrong itself
	maxDifference = 365 * 24 * time.Hour // bounds what a log can state
)

// Clock watches the wall clock. It is safe for concurrent use. An offset is the difference of a clock
// and the steady clock; it is constant while both run.
type Clock struct {
	now           func() time.Time
	steady        func() time.Duration
	behind, ahead time.Duration // how far a log's timestamp may be from the wall clock

	mu        sync.Mutex          // guards the fields below
	trusted   time.Duration       // offset of the wall clock; it follows small corrections
	stepped   time.Duration       // offset after the last step; trusted if there is none
	steppedAt time.Duration       // steady time of the last step
	evidence  map[string]evidence // of operators of logs
	probeAt   time.Duration       // steady time of the next probe
}

// evidence is the offset of an operator's last timestamp, and when it came.
type evidence struct{ offset, at time.Duration }

// New returns a Clock that trusts the present time. now is the wall clock, and steady a clock that is
// never set; nil for those of the machine. Where the kernel permits it, the machine's steady clock
// includes the time that the machine was suspended.
func New(now func() time.Time, steady func() time.Duration, behind, ahead time.Duration) *Clock {
	if steady == nil {
		now, steady = time.Now, steadyClock()
	}
	c := &Clock{now: now, steady: steady, behind: behind, ahead: ahead, evidence: map[string]evidence{}}
	_, c.trusted = c.read()
	c.stepped = c.trusted
	return c
}

// monotonic returns the time since now by Go's monotonic clock, which may stand still while the machine is suspended.
func monotonic() func() time.Duration {
	began := time.Now()
	return func() time.Duration { return time.Since(began) }
}

// read returns the steady time and the offset of the wall clock.
func (c *Clock) read() (steady, offset time.Duration) {
	steady = c.steady()
	return steady, time.Duration(c.now().UnixNano()) - steady
}

// Observe records that a log of operator has just signed the timestamp at. The logs of one operator count as one clock, of
// which the last timestamp counts.
func (c *Clock) Observe(operator string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	steady, offset := c.read()
	difference := at.Sub(time.Unix(0, int64(steady+offset)))
	c.evidence[operator] = evidence{offset + max(min(difference, maxDifference), -maxDifference), steady}
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
	stepped, disagrees := c.judge()
	return cmp.Or(disagrees, stepped)
}

// Stepped returns why a step of the wall clock is not trusted, or nil.
func (c *Clock) Stepped() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	stepped, _ := c.judge()
	return stepped
}

// Admit is Check for a request. While only logs disagree, it admits one request in each probeInterval, which asks the
// logs again: without new timestamps, nothing would withdraw the old ones. The result of such a probe counts only if Check
// passes after it.
func (c *Clock) Admit() (probe bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stepped, disagrees := c.judge()
	if now := c.steady(); disagrees != nil && stepped == nil && now >= c.probeAt {
		c.probeAt = now + probeInterval
		return true, nil
	}
	return false, cmp.Or(disagrees, stepped)
}

// Unused gives back the probe of a request that asked no log, so that callers whose requests are refused before that cannot
// delay the next one.
func (c *Clock) Unused() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.probeAt = 0
}

// judge returns what speaks against the wall clock: a step, and the timestamps of logs. The caller holds c.mu.
func (c *Clock) judge() (stepped, disagrees error) {
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
	if wait := c.follow(steady, offset, agree > 0 && disagree == 0); wait > 0 {
		stepped = fmt.Errorf("the wall clock has stepped by %s against the monotonic clock; it is trusted when it steps back, when a log confirms it, or in %s unless it steps again",
			step.Round(time.Second), wait.Round(time.Second))
	}
	if disagree >= enough && disagree > agree {
		disagrees = fmt.Errorf("the wall clock differs from the signed timestamps of the logs of %d operators, of one by %s, and agrees with those of %d: set the clock of this machine",
			disagree, example.Round(time.Millisecond), agree)
	}
	return stepped, disagrees
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
