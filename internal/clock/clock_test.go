// SPDX-License-Identifier: Apache-2.0

package clock_test

import (
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/clock"
)

// machine is a machine with clocks that a test moves.
type machine struct {
	*clock.Clock
	t      *testing.T
	wall   time.Time
	steady time.Duration
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, wall: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC), steady: time.Hour}
	m.Clock = clock.New(func() time.Time { return m.wall }, func() time.Duration { return m.steady }, 2*time.Minute, 10*time.Second)
	return m
}

// passes lets time pass for both clocks.
func (m *machine) passes(d time.Duration) { m.wall, m.steady = m.wall.Add(d), m.steady+d }

// steps sets the wall clock.
func (m *machine) steps(d time.Duration) { m.wall = m.wall.Add(d) }

// sees gets a timestamp of each log, which is so far ahead of the wall clock.
func (m *machine) sees(ahead time.Duration, logs ...string) {
	for _, log := range logs {
		m.Observe(log, m.wall.Add(ahead))
	}
}

func (m *machine) expect(trusted bool, when string) {
	m.t.Helper()
	if err := m.Check(); (err == nil) != trusted {
		m.t.Errorf("%s: %v, want trusted %t", when, err, trusted)
	}
}

// Only a step of more than two minutes counts, in either direction. The clock is trusted again as soon
// as it steps back.
func TestStep(t *testing.T) {
	t.Parallel()
	for _, step := range []time.Duration{8 * time.Hour, -8 * time.Hour, 121 * time.Second, -121 * time.Second} {
		m := newMachine(t)
		m.steps(2 * time.Minute)
		m.expect(true, "after a small step")
		m.steps(-2 * time.Minute)
		m.expect(true, "after another one")
		m.steps(step)
		m.expect(false, "after "+step.String())
		m.passes(time.Minute)
		m.expect(false, "a minute later")
		m.steps(-step)
		m.expect(true, "after the step back from "+step.String())
		m.steps(step)
		m.passes(4*time.Minute + 59*time.Second)
		m.expect(false, "after a second step to the same time, whose wait begins again")
	}
}

// A virtual machine is paused without the knowledge of its kernel: the monotonic clock stands still,
// and after that the wall clock steps ahead. No log confirms the new time, since nothing is issued.
// Issuance resumes after five minutes without a further step.
func TestSuspendedMachineIsNotStoppedForGood(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.sees(0, "a", "b")
	m.steps(8 * time.Hour)
	m.expect(false, "after the pause, by the timestamps from before it")
	m.passes(time.Minute + time.Second)
	m.expect(false, "without timestamps, by the step")
	m.passes(3*time.Minute + 58*time.Second)
	m.expect(false, "just before five minutes")
	m.passes(time.Second)
	m.expect(true, "after five minutes")
	m.steps(-time.Hour)
	m.expect(false, "after the next step")
	m.passes(4 * time.Minute)
	m.steps(-time.Hour)
	m.expect(false, "after a further step, with which the wait begins again")
	m.passes(4 * time.Minute)
	m.expect(false, "before the new time has been kept for five minutes")
	m.passes(time.Minute)
	m.expect(true, "then")
}

// Corrections that are small do not add up.
func TestSmallSteps(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for range 10 {
		m.steps(90 * time.Second)
		m.passes(time.Minute)
		m.expect(true, "after a small step")
	}
	m.steps(-10 * 90 * time.Second)
	m.expect(false, "after one large step")
}

// Two logs that disagree stop issuance, one does not, and nor do two where as many agree. Evidence
// ages, and a correction of the clock ends it at once.
func TestLogsDisagree(t *testing.T) {
	t.Parallel()
	for ahead, agrees := range map[time.Duration]bool{
		10 * time.Second: true, 11 * time.Second: false, -2 * time.Minute: true, -121 * time.Second: false,
		1 << 62: false, -1 << 62: false, // what a log can sign is not bounded
	} {
		m := newMachine(t)
		m.sees(ahead, "a")
		m.expect(true, "one log at "+ahead.String())
		m.sees(ahead, "a")
		m.expect(true, "the same log again")
		m.passes(30 * time.Second)
		m.sees(ahead, "b")
		m.expect(agrees, "two logs at "+ahead.String())
		m.sees(0, "c")
		m.expect(agrees, "of three logs two")
		m.sees(0, "d")
		m.expect(true, "of four logs two")
		m.passes(31 * time.Second)
		m.expect(true, "once a timestamp is older than a minute")
	}
	m := newMachine(t)
	m.steps(-time.Second)
	m.sees(time.Hour, "a", "b")
	m.expect(false, "an hour behind")
	m.steps(time.Hour)
	m.expect(true, "after the correction, which is a step that the logs confirm")
	m.passes(10 * time.Minute)
	m.expect(true, "later")
}

// While only logs disagree, one request in two seconds finds out whether they still do. A step admits none.
func TestProbe(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	admit := func(probe, admitted bool, when string) {
		t.Helper()
		if isProbe, err := m.Admit(); isProbe != probe || (err == nil) != admitted {
			t.Errorf("%s: a probe %t, %v; want a probe %t, admitted %t", when, isProbe, err, probe, admitted)
		}
	}
	admit(false, true, "at first")
	m.sees(time.Hour, "a", "b")
	admit(true, true, "two operators disagree")
	admit(false, false, "the next request")
	m.Unused()
	admit(true, true, "after a probe that asked no log")
	admit(false, false, "the next request")
	m.passes(probeInterval)
	admit(true, true, "two seconds later")
	m.expect(false, "by the probe alone")
	m.sees(0, "a")
	admit(false, true, "once a timestamp of one agrees")
	m.expect(true, "then")
	m.sees(time.Hour, "a")
	m.steps(3 * time.Minute)
	m.passes(probeInterval)
	admit(false, false, "after a step")
	if err := m.Stepped(); err == nil {
		t.Error("Stepped does not report the step")
	}
}

const probeInterval = 2 * time.Second

// One log that confirms the time after a step is enough.
func TestLogConfirmsStep(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.steps(time.Hour)
	m.expect(false, "after the step")
	m.sees(0, "a")
	m.expect(true, "once a log confirms it")
	m.steps(time.Hour)
	m.sees(0, "a")
	m.sees(time.Hour, "b")
	m.expect(false, "where another contradicts")
}

// The clocks of the machine itself agree.
func TestMachine(t *testing.T) {
	t.Parallel()
	c := clock.New(nil, nil, 2*time.Minute, 10*time.Second)
	c.Observe("log", time.Now())
	if err := c.Check(); err != nil {
		t.Error(err)
	}
	if state := clock.Kernel(); state != clock.Synchronised && state != clock.Unsynchronised && state != clock.Unknown {
		t.Errorf("the kernel's clock is %q", state)
	}
}
