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
	// length. The values that a logger adds to each of its lines are cut to it at once.
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
	slog.Handler // renders into the line of pen
	*pen
	limited bool
}

// pen is what all handlers of a process share.
type pen struct {
	mu   sync.Mutex // guards what follows
	out  io.Writer
	root slog.Handler // renders into line
	line bytes.Buffer
	size int // values of line are cut to this length; 0 for none
}

func newLines(out io.Writer, level slog.Level, text bool) lines {
	p := &pen{out: out}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: p.cut}
	if p.root = slog.NewJSONHandler(&p.line, options); text {
		p.root = slog.NewTextHandler(&p.line, options)
	}
	return lines{Handler: p.root, pen: p}
}

// WithAttrs implements slog.Handler.
func (l lines) WithAttrs(attrs []slog.Attr) slog.Handler {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size = 0; l.limited {
		l.size = leastValue
	}
	l.Handler = l.Handler.WithAttrs(attrs)
	return l
}

// WithGroup implements slog.Handler.
func (l lines) WithGroup(name string) slog.Handler {
	l.Handler = l.Handler.WithGroup(name)
	return l
}

// Handle implements slog.Handler. It cuts the values shorter until the line fits.
func (l lines) Handle(ctx context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size = 0; l.limited {
		l.size = maxLine
	}
	for h := l.Handler; ; {
		l.line.Reset()
		if err := h.Handle(ctx, r); err != nil {
			return err
		}
		if !l.limited || l.line.Len() <= maxLine {
			_, err := l.out.Write(l.line.Bytes())
			return err
		}
		if l.size = l.size * 3 / 4; l.size < leastValue { // more attributes than fit
			few := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
			few.AddAttrs(slog.Int("left_out", r.NumAttrs()))
			h, r, l.size = l.root, few, leastValue
		}
	}
}

// cut is for slog.HandlerOptions.ReplaceAttr: it cuts texts longer than size.
func (p *pen) cut(_ []string, a slog.Attr) slog.Attr {
	if p.size == 0 {
		return a
	}
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(cut(a.Value.String(), p.size))
	case slog.KindAny:
		value := a.Value.Any()
		if b, ok := value.([]byte); ok {
			value = string(b)
		}
		if text := fmt.Sprintf("%+v", value); len(text) > p.size { // otherwise a list or an object in JSON
			a.Value = slog.StringValue(cut(text, p.size))
		}
	}
	return a
}

// cut returns text, or its beginning with a note of its length, in at most size bytes.
func cut(text string, size int) string {
	if len(text) <= size {
		return text
	}
	note := fmt.Sprintf("… (%d bytes)", len(text))
	return strings.ToValidUTF8(text[:max(size-len(note), 0)], "") + note
}
