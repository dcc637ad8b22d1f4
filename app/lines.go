// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/mayfly-ca/mayfly/config"
)

const (
	// maxLine is the length in bytes of the longest line that a caller can cause, including its
	// newline.
	maxLine = 2 << 10
	// leastValue is the shortest length to which a value is cut: the cut value states the original
	// length.
	leastValue = 32
)

// newLogger returns the logger of a process; out is nil for none.
func newLogger(cfg config.Log, out io.Writer) *slog.Logger {
	if out == nil {
		return slog.New(slog.DiscardHandler)
	}
	var level slog.Level
	// LoadServer has checked the level; the zero value is info.
	_ = level.UnmarshalText([]byte(cfg.Level))
	return slog.New(newLines(out, level, cfg.Format == "text"))
}

// NewCallerLogger returns a logger that writes text at level or above to out, for lines that callers
// can cause.
func NewCallerLogger(out io.Writer, level slog.Level) *slog.Logger {
	return slog.New(CallerLines(newLines(out, level, true)))
}

// CallerLines returns the handler of newLogger for lines that callers can cause: it cuts the values of
// a line so that the line has at most maxLine bytes. Lines that the operator's own input causes, such
// as mistakes in a configuration file, have no limit. Keys and names of groups are this program's own.
func CallerLines(h slog.Handler) slog.Handler {
	if l, ok := h.(lines); ok {
		l.limited = true
		return l
	}
	return h // slog.DiscardHandler, or a test's own
}

// lines is the handler of newLogger.
type lines struct {
	out     *lockedWriter
	limited bool
	// plain writes to out. render returns an equal handler that writes to w and calls replace.
	plain  slog.Handler
	render func(w io.Writer, replace func([]string, slog.Attr) slog.Attr) slog.Handler
}

func newLines(out io.Writer, level slog.Level, text bool) lines {
	l := lines{out: &lockedWriter{w: out}}
	l.render = func(w io.Writer, replace func([]string, slog.Attr) slog.Attr) slog.Handler {
		options := &slog.HandlerOptions{Level: level, ReplaceAttr: replace}
		if text {
			return slog.NewTextHandler(w, options)
		}
		return slog.NewJSONHandler(w, options)
	}
	l.plain = l.render(l.out, nil)
	return l
}

// lockedWriter is shared by handlers, each of which writes a line by one call.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// Enabled implements slog.Handler.
func (l lines) Enabled(ctx context.Context, level slog.Level) bool {
	return l.plain.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (l lines) WithAttrs(attrs []slog.Attr) slog.Handler {
	return l.with(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (l lines) WithGroup(name string) slog.Handler {
	return l.with(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (l lines) with(change func(slog.Handler) slog.Handler) slog.Handler {
	render := l.render
	l.plain = change(l.plain)
	l.render = func(w io.Writer, replace func([]string, slog.Attr) slog.Attr) slog.Handler {
		return change(render(w, replace))
	}
	return l
}

// Handle implements slog.Handler. It cuts the values shorter until the line fits.
func (l lines) Handle(ctx context.Context, r slog.Record) error {
	if !l.limited {
		return l.plain.Handle(ctx, r)
	}
	var line bytes.Buffer
	for size := maxLine; size >= leastValue; size = size * 3 / 4 {
		line.Reset()
		if err := l.render(&line, cutTo(size)).Handle(ctx, r); err != nil {
			return err
		}
		if line.Len() <= maxLine {
			_, err := l.out.Write(line.Bytes())
			return err
		}
	}
	// More attributes than fit.
	few := slog.NewRecord(r.Time, r.Level, cut(r.Message, leastValue), r.PC)
	few.AddAttrs(slog.Int("left_out", r.NumAttrs()))
	return newLines(l.out, slog.LevelDebug, false).plain.Handle(ctx, few)
}

// cutTo returns a function for slog.HandlerOptions.ReplaceAttr that cuts texts longer than size.
func cutTo(size int) func([]string, slog.Attr) slog.Attr {
	return func(_ []string, a slog.Attr) slog.Attr {
		switch a.Value.Kind() {
		case slog.KindString:
			a.Value = slog.StringValue(cut(a.Value.String(), size))
		case slog.KindAny:
			value := a.Value.Any()
			if b, ok := value.([]byte); ok {
				value = string(b)
			}
			if text := fmt.Sprintf("%+v", value); len(text) > size { // otherwise a list or an object in JSON
				a.Value = slog.StringValue(cut(text, size))
			}
		}
		return a
	}
}

// cut returns text, or its beginning with a note of its length, in at most size bytes.
func cut(text string, size int) string {
	if len(text) <= size {
		return text
	}
	note := fmt.Sprintf("… (%d bytes)", len(text))
	return strings.ToValidUTF8(text[:max(size-len(note), 0)], "") + note
}
