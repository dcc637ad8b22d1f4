// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/slogtest"
	"time"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/config"
)

// logTo returns the loggers of a format.
func logTo(format string, out *bytes.Buffer) (operator, callers *slog.Logger) {
	return newLoggers(config.Log{Format: format, Level: "debug"}, out)
}

// TestCallerLinesAreAHandler checks log/slog's rules for handlers.
func TestCallerLinesAreAHandler(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		out.Reset()
		_, callers := logTo("json", &out)
		return callers.Handler()
	}, func(t *testing.T) map[string]any {
		var line map[string]any
		if err := json.Unmarshal(out.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		return line
	})
}

// oddTexts are longer when they are written, or are hard to cut.
func oddTexts() []string {
	texts := []string{"", "x"}
	for _, piece := range []string{"x", `"`, `\`, "\n", "\x00", "\x7f", "\xff", "\xe2\x82", "ä", "€", "\u2028", "\u202e", "\U000e0001", "😀", "</script>", "a=b "} {
		for _, length := range []int{3000} {
			texts = append(texts, strings.Repeat(piece, length))
		}
	}
	return texts
}

// TestNoLineOfACallerIsLong: whatever a line contains, it has at most 2 KiB, is well formed, and
// keeps its short values.
func TestNoLineOfACallerIsLong(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"json", "text"} {
		for _, text := range oddTexts() {
			for name, attrs := range map[string][]any{
				"none":         nil,
				"text":         {"long", text},
				"error":        {"long", errors.Join(errors.New(text), fmt.Errorf("wrapped: %w", errors.New(text)))},
				"list":         {"long", []string{text, text}},
				"map":          {"long", map[string]any{text: text}},
				"bytes":        {"long", []byte(text)},
				"group":        {slog.Group("g", "long", text, slog.Group("h", "long", text, "n", 1))},
				"many":         {"a", text, "b", text, "c", text, "d", text, "e", text, "f", text, "g", text, "h", text},
				"a function":   {"long", func() {}},
				"nil error":    {"long", (*failing)(nil)},
				"many scalars": {"a", time.Now(), "b", time.Hour, "c", 1.5, "d", true, "e", uint64(1) << 63, "long", text},
			} {
				var out bytes.Buffer
				_, callers := logTo(format, &out)
				callers = callers.With("entry", text, "kept", "short").WithGroup("outer").With("url", text)
				for _, message := range []string{"request", text} {
					out.Reset()
					callers.Error(message, attrs...)
					line := out.String()
					if len(line) > maxLine || strings.Count(line, "\n") != 1 || !utf8.ValidString(line) {
						t.Errorf("%s, %s: a line of %d bytes: %.200q", format, name, len(line), line)
					}
					if format == "json" && !json.Valid(out.Bytes()) {
						t.Errorf("%s: no JSON: %.300q", name, line)
					}
					if !strings.Contains(line, "short") {
						t.Errorf("%s, %s: a short value is missing: %s", format, name, line)
					}
				}
			}
		}
	}
}

type failing struct{ text string }

func (f *failing) Error() string { return f.text }

// TestShortLinesAreUnchanged: the limit does not change a line that is short enough. A longer one states
// what was cut.
func TestShortLinesAreUnchanged(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"json", "text"} {
		var out bytes.Buffer
		operator, callers := logTo(format, &out)
		attrs := []any{"s", "ä", "e", errors.New("x\ny"), "l", []string{"a"}, "d", time.Second, slog.Group("g", "n", 1), "p", config.Secret{}}
		var lines []string
		for _, logger := range []*slog.Logger{operator, callers} {
			out.Reset()
			logger.With("w", 1).Warn("message", attrs...)
			_, rest, _ := strings.Cut(out.String(), "WARN")
			lines = append(lines, rest)
		}
		if lines[0] != lines[1] {
			t.Errorf("%s: %s instead of %s", format, lines[1], lines[0])
		}
		out.Reset()
		callers.Info("request", "cause", strings.Repeat("x", 58_000), "reason", "TOKEN_MALFORMED")
		if line := out.String(); !strings.Contains(line, strings.Repeat("x", maxLine/2)+"x") || !strings.Contains(line, "x… (58000 bytes)") || !strings.Contains(line, "TOKEN_MALFORMED") {
			t.Errorf("%s: line %s", format, line)
		}
	}
}

// FuzzCallerLines: no text makes a long line, or one that is not well formed.
func FuzzCallerLines(f *testing.F) {
	for _, text := range oddTexts() {
		f.Add(text, text, len(text)%3)
	}
	f.Fuzz(func(t *testing.T, message, value string, times int) {
		for _, format := range []string{"json", "text"} {
			var out bytes.Buffer
			_, callers := logTo(format, &out)
			value := strings.Repeat(value, min(max(times, 0), 100))
			callers.With("w", value).Info(message, "a", value, "b", errors.New(value), slog.Group(value, message, value))
			if out.Len() > maxLine || format == "json" && !json.Valid(out.Bytes()) || !utf8.Valid(out.Bytes()) || bytes.Count(out.Bytes(), []byte("\n")) != 1 {
				t.Errorf("%s: a line of %d bytes: %.300q", format, out.Len(), out.String())
			}
		}
	})
}
