// SPDX-License-Identifier: Apache-2.0

package breaker

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Sparing is a log whose size neither an outage nor a client can inflate. It is safe for
// concurrent use.
type Sparing struct {
	Logger *slog.Logger
	// Interval is the minimum time between two lines with the same message.
	Interval time.Duration

	mu    sync.Mutex      // guards the fields below
	lines map[string]line // by message, of which there are few
}

// line is the last line with a message.
type line struct {
	at   time.Time
	left int // how many were left out since
}

// Log logs a record. It leaves out a warning or worse that comes too soon after another with
// the same message; the next line states how many it left out.
func (s *Sparing) Log(ctx context.Context, level slog.Level, message string, attrs ...slog.Attr) {
	if level >= slog.LevelWarn {
		left, due := s.due(message)
		if !due {
			return
		}
		if left > 0 {
			attrs = append(attrs, slog.Int("left_out", left))
		}
	}
	s.Logger.LogAttrs(ctx, level, message, attrs...)
}

func (s *Sparing) due(message string) (left int, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	last, known := s.lines[message]
	if known && now.Sub(last.at) < s.Interval {
		last.left++
		s.lines[message] = last
		return 0, false
	}
	if s.lines == nil {
		s.lines = make(map[string]line)
	}
	s.lines[message] = line{at: now}
	return last.left, true
}
