// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Refusal is what a Server has refused: the value of a label.
type Refusal string

// The refusals. Who is not allowed can bring about the first alone.
const (
	RefusedConnection   Refusal = "connection"    // of one who is not allowed, or one too many
	RefusedMalformed    Refusal = "malformed"     // a request that is none
	RefusedNotPermitted Refusal = "not_permitted" // one for which Sign said ErrNotPermitted
	RefusedUnknownKey   Refusal = "unknown_key"   // one for which it said ErrUnknownKey
)

// Refusals are all of them, for metrics.
func Refusals() []Refusal {
	return []Refusal{RefusedConnection, RefusedMalformed, RefusedNotPermitted, RefusedUnknownKey}
}

const (
	// lineInterval is how far apart lines with the same message are, of which others decide how
	// many there would be.
	lineInterval = time.Second
	// maxLogged is how much of an error's text is logged, in octets: it may quote what others
	// sent.
	maxLogged = 1 << 10
)

// sparing is a log that nobody can fill from outside.
type sparing struct {
	logger *slog.Logger

	mu    sync.Mutex      // guards what follows
	lines map[string]line // by message, of which there are few
}

// line is the last line with a message.
type line struct {
	at   time.Time
	left int // how many were left out since
}

// say logs, or leaves out a warning or worse that comes too soon after another with the same
// message. The next one tells how many those were.
func (s *sparing) say(ctx context.Context, level slog.Level, message string, attrs ...slog.Attr) {
	if level >= slog.LevelWarn {
		left, due := s.due(message)
		if !due {
			return
		}
		if left > 0 {
			attrs = append(attrs, slog.Int("left_out", left))
		}
	}
	s.logger.LogAttrs(ctx, level, message, attrs...)
}

func (s *sparing) due(message string) (left int, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	last, known := s.lines[message]
	if known && now.Sub(last.at) < lineInterval {
		last.left++
		s.lines[message] = last
		return 0, false
	}
	s.lines[message] = line{at: now}
	return last.left, true
}
