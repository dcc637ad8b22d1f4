// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// steadyClock returns the time since the machine's boot, suspension included. Where a sandbox forbids that clock, which
// holds for the whole life of a process, it is the monotonic clock of the process.
func steadyClock() func() time.Duration {
	read := func() (time.Duration, error) {
		var ts unix.Timespec
		err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
		return time.Duration(ts.Nano()), err
	}
	if _, err := read(); err != nil {
		return monotonic()
	}
	return func() time.Duration {
		now, _ := read()
		return now
	}
}

// Kernel returns whether the kernel states that its clock is synchronised, as by NTP (adjtimex(2)). It
// is not known where this process may not ask.
func Kernel() string {
	var state unix.Timex
	switch _, err := unix.Adjtimex(&state); {
	case err != nil:
		return Unknown
	case state.Status&unix.STA_UNSYNC != 0:
		return Unsynchronised
	}
	return Synchronised
}
