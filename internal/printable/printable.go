// SPDX-License-Identifier: Apache-2.0

// Package printable writes text that others have composed, such as the names in certificates and
// the answers of servers, so that a terminal shows it and does not obey it: no control
// characters, no escape sequences, no change of direction, nothing invisible.
//
// What is escaped has the form \uXXXX, two of them for a character beyond U+FFFF, as in JSON, so
// that JSON which passes a Writer stays the same value. Printable ASCII is never changed; PEM
// passes as it is. Every package may import this one.
package printable

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Line returns s with everything escaped that would not show as itself in one line: line breaks
// and tabs too.
func Line(s string) string {
	if i := strings.IndexFunc(s, hidden); i < 0 && utf8.ValidString(s) {
		return s
	}
	return string(appendEscaped(nil, s))
}

// hidden reports whether r does not show as itself. U+FFFD, which range yields for invalid UTF-8,
// does.
func hidden(r rune) bool {
	if r < utf8.RuneSelf { // nearly all of a server's log
		return r < ' ' || r == 0x7f
	}
	return !unicode.IsPrint(r) || unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) ||
		r == '\u034f' || r == '\u2800' // a joiner without a glyph, a blank that is no space
}

// appendEscaped appends s to b; an octet that is no UTF-8 becomes \ufffd.
func appendEscaped(b []byte, s string) []byte {
	for _, r := range s {
		switch {
		case r == utf8.RuneError: // the real one too, so that the output has one form
			b = append(b, `\ufffd`...)
		case !hidden(r):
			b = utf8.AppendRune(b, r)
		case r > 0xffff:
			r -= 0x10000
			b = fmt.Appendf(b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return b
}

// Fprintf is fmt.Fprintf with every string among args as Line has it, and every error as Lines
// has it.
func Fprintf(w io.Writer, format string, args ...any) (int, error) {
	args = slices.Clone(args)
	for i, arg := range args {
		switch arg := arg.(type) {
		case string:
			args[i] = Line(arg)
		case error:
			args[i] = Lines(arg)
		}
	}
	return fmt.Fprintf(w, format, args...)
}

// Lines returns the text of err for a terminal. Its line breaks are those between the errors that
// err joins, and those before an error that it wraps; every other one is escaped.
func Lines(err error) string {
	text, out := err.Error(), ""
	for _, inner := range wrapped(err) {
		before, after, found := strings.Cut(text, inner.Error())
		if !found || inner.Error() == "" {
			continue
		}
		glue, lineBreak := strings.CutSuffix(before, "\n")
		if out += Line(glue); lineBreak {
			out += "\n"
		}
		out, text = out+Lines(inner), after
	}
	return out + Line(text)
}

func wrapped(err error) []error {
	switch err := err.(type) {
	case interface{ Unwrap() []error }:
		return err.Unwrap()
	case interface{ Unwrap() error }:
		if inner := err.Unwrap(); inner != nil {
			return []error{inner}
		}
	}
	return nil
}

// Writer passes lines of text on: everything is escaped as in Line but line breaks ("\n" and
// "\r\n") and tabs. It is safe for concurrent use, and passes each write on with one write.
type Writer struct {
	mu      sync.Mutex // guards what follows
	to      io.Writer
	pending []byte // the beginning of a character, or a "\r", at the end of the last write
}

// NewWriter returns a Writer to w. Close it after the last write.
func NewWriter(w io.Writer) *Writer { return &Writer{to: w} }

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 && !slices.ContainsFunc(p, func(c byte) bool { return c != '\n' && (c < ' ' || c >= 0x7f) }) {
		return w.to.Write(p)
	}
	text := append(w.pending, p...)
	whole := len(text) - unfinished(text)
	w.pending = slices.Clone(text[whole:])
	if whole == 0 {
		return len(p), nil
	}
	if _, err := w.to.Write(escapeLines(string(text[:whole]))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close writes what waits for the rest of a character. It does not close what it writes to.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 {
		return nil
	}
	_, err := w.to.Write(escapeLines(string(w.pending)))
	w.pending = nil
	return err
}

// unfinished returns how many octets at the end of text need to be seen with what follows.
func unfinished(text []byte) int {
	if n := len(text); n > 0 && text[n-1] == '\r' {
		return 1
	}
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if last := text[len(text)-n:]; utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}

func escapeLines(text string) []byte {
	b := make([]byte, 0, len(text))
	for len(text) > 0 {
		i := strings.IndexAny(text, "\n\t")
		if i < 0 {
			return appendEscaped(b, text)
		}
		part, kept := text[:i], text[i:i+1]
		if cut, ok := strings.CutSuffix(part, "\r"); ok && kept == "\n" {
			part, kept = cut, "\r\n"
		}
		b = append(appendEscaped(b, part), kept...)
		text = text[i+1:]
	}
	return b
}
