// SPDX-License-Identifier: Apache-2.0

package breaker

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A status has the time of the last change, and the last failure also after the success that ended it.
func TestStatusRemembers(t *testing.T) {
	t.Parallel()
	b := Breaker{Threshold: 2, Interval: time.Second}
	start, down := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC), errors.New("down")
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	expect := func(when int, want Status) {
		t.Helper()
		got := b.StatusAt(at(when))
		got.Probe = 0
		if got != want {
			t.Errorf("after %d s: %+v, want %+v", when, got, want)
		}
	}
	expect(0, Status{State: Closed})
	b.Succeeded(at(1))
	expect(1, Status{State: Closed, SucceededAt: at(1)})
	b.Failed(at(2), down, 0)
	expect(2, Status{State: Closed, Failures: 1, LastError: down, LastFailure: down, FailedAt: at(2), SucceededAt: at(1)})
	b.Failed(at(3), down, 0)
	expect(3, Status{State: Open, Failures: 2, LastError: down, LastFailure: down, Since: at(3), FailedAt: at(3), SucceededAt: at(1)})
	b.Failed(at(4), down, 0)
	expect(9, Status{State: HalfOpen, Failures: 3, LastError: down, LastFailure: down, Since: at(3), FailedAt: at(4), SucceededAt: at(1)})
	b.Succeeded(at(10))
	expect(11, Status{State: Closed, LastFailure: down, Since: at(10), FailedAt: at(4), SucceededAt: at(10)})
}

// Each message has its own second, at whose end a line states how many were left out. Records below
// warning are not bounded.
func TestSparing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		drop := func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
		s := &Sparing{Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: drop})), Interval: time.Second}
		say := func(level slog.Level, message string, times int) {
			for i := range times {
				s.Log(t.Context(), level, message, slog.Int("i", i))
			}
		}
		say(slog.LevelWarn, "a", 3)
		say(slog.LevelError, "b", 1)
		say(slog.LevelDebug, "c", 2)
		time.Sleep(s.Interval - time.Nanosecond)
		say(slog.LevelWarn, "a", 1)
		time.Sleep(time.Nanosecond)
		say(slog.LevelWarn, "a", 2)
		time.Sleep(s.Interval)
		say(slog.LevelWarn, "a", 1)
		say(slog.LevelError, "b", 1)
		want := `level=WARN msg=a i=0
level=ERROR msg=b i=0
level=DEBUG msg=c i=0
level=DEBUG msg=c i=1
level=WARN msg=a i=0 left_out=3
level=WARN msg=a i=0 left_out=1
level=ERROR msg=b i=0
`
		if got := out.String(); got != want {
			t.Errorf("the log is:\n%s\nwant:\n%s", got, strings.TrimSpace(want))
		}
	})
}
