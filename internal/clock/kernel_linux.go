// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot returns the time since the machine's boot, suspension included.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // fails before Linux 2.6.39 only
	return time.Duration(ts.Nano())
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
