// SPDX-License-Identifier: Apache-2.0

package breaker

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

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
