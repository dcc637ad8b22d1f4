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

// Writer passes text on: everything is escaped as in Line but line breaks ("\n" and "\r\n") and
// tabs. It is safe for concurrent use, and passes each write on with one write. A character, or a
// "\r\n", that two writes divide is escaped.
type Writer struct {
	mu sync.Mutex // guards to
	to io.Writer
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{to: w} }

// To returns what w passes text on to. What is written to it is not escaped.
func (w *Writer) To() io.Writer { return w.to }

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	escaped := p
	if slices.ContainsFunc(p, func(c byte) bool { return c != '\n' && (c < ' ' || c >= 0x7f) }) {
		escaped = escapeLines(string(p))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.to.Write(escaped); err != nil {
		return 0, err
	}
	return len(p), nil
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
