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
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/breaker"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/server"
)

const (
	// maxLine is the length in bytes of the longest line that a caller can cause, including its
	// newline.
	maxLine = 2 << 10
	// leastValue is the shortest length to which a value is cut: the cut value states the original
	// length. The values that a logger adds to each of its lines are cut to it at once.
	leastValue = 32
)

// newLoggers returns the loggers of a process; out is nil for none. operator is for lines that only the
// operator's input causes, such as mistakes in a configuration file: they have no limit. callers is
// for lines that callers can cause.
func newLoggers(cfg config.Log, out io.Writer) (operator, callers *slog.Logger) {
	if out == nil {
		return slog.New(slog.DiscardHandler), slog.New(slog.DiscardHandler)
	}
	var level slog.Level
	// LoadServer has checked the level; the zero value is info.
	_ = level.UnmarshalText([]byte(cfg.Level))
	locked := &lockedWriter{w: out}
	operator = slog.New(server.Correlate(newHandler(locked, cfg.Format == "text", level, readable)))
	return operator, slog.New(server.Correlate(newLines(locked, level, cfg.Format == "text")))
}

// NewCallerLogger returns a logger that writes text at level or above to out, for lines that callers
// can cause.
func NewCallerLogger(out io.Writer, level slog.Level) *slog.Logger {
	return slog.New(newLines(out, level, true))
}

// libraryLines is a handler for the errors of Tessera, which repeats one ten times a second.
type libraryLines struct {
	slog.Handler
	spare *breaker.Sparing
}

func newLibraryLogger(logger *slog.Logger) *slog.Logger {
	return slog.New(libraryLines{logger.Handler(), &breaker.Sparing{Logger: logger, Interval: time.Minute}})
}

// Enabled implements slog.Handler. Tessera's warnings are outages that this process reports itself.
func (libraryLines) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelError
}

// Handle implements slog.Handler.
func (l libraryLines) Handle(ctx context.Context, r slog.Record) error {
	l.spare.Log(ctx, r.Level, "the library below the embedded log (Tessera) reports a fault", slog.String("error", r.Message))
	return nil
}

// newHandler returns a handler of a format, which changes each attribute by change.
func newHandler(out io.Writer, text bool, level slog.Level, change func(a slog.Attr, text bool) slog.Attr) slog.Handler {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.LevelKey && a.Value.Kind() == slog.KindAny {
			if level, ok := a.Value.Any().(slog.Level); ok { // package slog would render it by reflection
				a.Value = slog.StringValue(level.String())
			}
		}
		return change(a, text)
	}}
	if text {
		return slog.NewTextHandler(out, options)
	}
	return slog.NewJSONHandler(out, options)
}

// readable returns a duration as the readers of a format expect it: in text with its unit, in JSON as a
// number of milliseconds, as its key then states. Any other attribute stays.
func readable(a slog.Attr, text bool) slog.Attr {
	switch {
	case a.Value.Kind() != slog.KindDuration:
		return a
	case text:
		return slog.Duration(a.Key, a.Value.Duration().Round(10*time.Microsecond))
	default:
		return slog.Float64(a.Key+"_ms", float64(a.Value.Duration())/float64(time.Millisecond))
	}
}

// logError writes one line for each of the errors that err joins. A mistake of a file has its place in
// keys of its own.
func logError(logger *slog.Logger, level slog.Level, err error) {
	for _, e := range keypath.Split(err) {
		text, attrs := e.Error(), []slog.Attr(nil)
		mistake, ok := e.(config.Mistake)
		if ok {
			text, attrs = mistake.Text, append(attrs, slog.String("file", mistake.File))
		}
		if mistake.Line > 0 {
			attrs = append(attrs, slog.Int("line", mistake.Line), slog.Int("column", mistake.Column))
		}
		logger.LogAttrs(context.Background(), level, text, attrs...)
	}
}

// Logged is an error that is in the log already.
type Logged struct{ error }

// Unwrap returns the error.
func (l Logged) Unwrap() error { return l.error }

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

// lines is a handler that cuts the values of a line so that the line has at most maxLine bytes. Keys and
// names of groups are this program's own.
type lines struct {
	slog.Handler // renders into the line of pen
	*pen
}

// pen is what all handlers of lines share.
type pen struct {
	mu   sync.Mutex // guards what follows
	out  io.Writer
	root slog.Handler // renders into line
	line bytes.Buffer
	size int // values of line are cut to this length
}

func newLines(out io.Writer, level slog.Level, text bool) lines {
	p := &pen{out: out}
	p.root = newHandler(&p.line, text, level, p.cut)
	return lines{p.root, p}
}

// WithAttrs implements slog.Handler.
func (l lines) WithAttrs(attrs []slog.Attr) slog.Handler {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.size = leastValue
	return lines{l.Handler.WithAttrs(attrs), l.pen}
}

// WithGroup implements slog.Handler.
func (l lines) WithGroup(name string) slog.Handler {
	return lines{l.Handler.WithGroup(name), l.pen}
}

// Handle implements slog.Handler. It cuts the values shorter until the line fits.
func (l lines) Handle(ctx context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.size = maxLine
	for h := l.Handler; ; {
		l.line.Reset()
		if err := h.Handle(ctx, r); err != nil {
			return err
		}
		if l.line.Len() <= maxLine {
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

// cut is readable, and cuts texts longer than size.
func (p *pen) cut(a slog.Attr, text bool) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(cut(a.Value.String(), p.size))
	case slog.KindAny:
		value := a.Value.Any()
		if b, ok := value.([]byte); ok {
			value = string(b)
		}
		if whole := fmt.Sprintf("%+v", value); len(whole) > p.size { // otherwise a list or an object in JSON
			a.Value = slog.StringValue(cut(whole, p.size))
		}
	}
	return readable(a, text)
}

// cut returns text, or its beginning with a note of its length, in at most size bytes.
func cut(text string, size int) string {
	if len(text) <= size {
		return text
	}
	note := fmt.Sprintf("… (%d bytes)", len(text))
	return strings.ToValidUTF8(text[:max(size-len(note), 0)], "") + note
}
