// SPDX-License-Identifier: Apache-2.0

package printable

import (
	"testing"
	"time"
)

func TestRelative(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "now", -time.Second: "now", 2 * time.Second: "in 2 seconds", 119 * time.Second: "in 119 seconds", -2 * time.Minute: "2 minutes ago",
		24*time.Hour - time.Second: "in 24 hours", -72 * time.Hour: "3 days ago", 59 * 24 * time.Hour: "in 59 days",
		90 * 24 * time.Hour: "in 3 months", -3 * 365 * 24 * time.Hour: "3 years ago", 1<<63 - 1: "in 292 years", -1 << 63: "292 years ago",
	} {
		if got := Relative(now.Add(d), now); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if got := Span(0); got != "1 second" {
		t.Errorf("Span(0) = %q", got)
	}
}
