// SPDX-License-Identifier: Apache-2.0

package printable

import (
	"fmt"
	"time"
)

// Relative returns t as a person says it at now: "3 days ago", "in 6 hours" or "now".
func Relative(t, now time.Time) string {
	switch d := t.Sub(now); {
	case d.Abs() < 2*time.Second:
		return "now"
	case d < 0:
		return Span(d) + " ago"
	default:
		return "in " + Span(d)
	}
}

// Span returns the length of d as a person says it, rounded, in the largest unit of which it has
// two.
func Span(d time.Duration) string {
	const day = 24 * time.Hour
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{365 * day, "years"}, {30 * day, "months"}, {day, "days"}, {time.Hour, "hours"}, {time.Minute, "minutes"}} {
		if d.Abs() >= 2*unit.size {
			return fmt.Sprintf("%d %s", d.Abs().Round(unit.size)/unit.size, unit.name)
		}
	}
	if d.Abs() < 2*time.Second {
		return "1 second"
	}
	return fmt.Sprintf("%d seconds", d.Abs().Round(time.Second)/time.Second)
}
