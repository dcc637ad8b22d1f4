// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Each message has its own second, whose end tells what it left out; what is no warning is not
// bounded.
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
		s := &sparing{logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: drop})), lines: map[string]line{}}
		say := func(level slog.Level, message string, times int) {
			for i := range times {
				s.say(t.Context(), level, message, slog.Int("i", i))
			}
		}
		say(slog.LevelWarn, "a", 3)
		say(slog.LevelError, "b", 1)
		say(slog.LevelDebug, "c", 2)
		time.Sleep(lineInterval - time.Nanosecond)
		say(slog.LevelWarn, "a", 1)
		time.Sleep(time.Nanosecond)
		say(slog.LevelWarn, "a", 2)
		time.Sleep(lineInterval)
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

func TestTrusted(t *testing.T) {
	t.Parallel()
	const own, owner = 1000, 1001
	for _, test := range []struct {
		uid, owner uint32
		want       bool
	}{
		{0, owner, true}, {own, owner, true}, {owner, owner, true},
		{1002, owner, false}, {1002, 0, false}, {overflowID, overflowID, false},
	} {
		if got := trusted(test.uid, own, test.owner); got != test.want {
			t.Errorf("uid %d in a folder of uid %d: %t", test.uid, test.owner, got)
		}
	}
}
