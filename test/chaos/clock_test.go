// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"testing"
	"time"
)

// TestClock steps the server's clock. No certificate has a time of the wrong clock: each is verified at the
// present time.
func TestClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.own = true
	w.start()
	w.load()
	w.line("no fault")
	w.steady()
	for name, step := range map[string]time.Duration{"ahead": time.Hour, "back": -time.Hour} {
		w.line("clock steps %s by an hour", name)
		w.become(func(s *state) { s.clock = false })
		w.server.clock(step)
		w.refused("CLOCK_WRONG")
		w.recover(theForm().bound, func(s *state) { s.clock = true }, func() { w.server.clock(0) })
		w.steady()
	}
	w.judge(nil)
}

// TestClocksOfLogs: a log with another time is a failing log. Two of them, and no other, are evidence against
// the server's clock.
func TestClocksOfLogs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.start()
	w.load()
	w.line("no fault")
	w.steady()
	w.line("one of two logs: old timestamps")
	w.logs[0].ahead.Store(int64(-10 * time.Minute))
	w.asked(&w.logs[0].calls)
	w.steady()
	w.line("every log: old timestamps")
	w.become(func(s *state) { s.logs, s.clock = 0, false })
	w.logs[1].ahead.Store(int64(-10 * time.Minute))
	w.refused("CLOCK_WRONG")
	w.recover(theForm().bound, func(s *state) { s.logs, s.clock = 1, true }, func() {
		w.logs[0].mend()
		w.logs[1].mend()
	})
	w.steady()
	w.judge(nil)
}
