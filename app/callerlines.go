// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"unicode"
	"unicode/utf8"
)

const (
	// maxLine is the length in bytes of the longest line that a caller can cause, including its
	// newline.
	maxLine = 2 << 10
	// lineFrame is the part of a line beside its message and attributes: time, level, and keys.
	lineFrame = 128
	// leastValue is the shortest length to which a value is cut: the cut value states the original
	// length.
	leastValue = 48
	// scalarSize is the length of the longest number or time.
	scalarSize = 48
)

// CallerLines returns a handler for lines that callers can cause: it cuts the longest values of a
// line so that no line has more than 2 KiB, in JSON and in text. Lines that the operator's own
// input causes, such as mistakes in a configuration file, do not need it.
func CallerLines(next slog.Handler) slog.Handler { return callerLines{next: next} }

type callerLines struct {
	next slog.Handler
	// scopes are what WithGroup and WithAttrs added. They reach next with each record, so their length
	// counts.
	scopes []scope
}

// scope is a group, "" for the outermost, with its attributes.
type scope struct {
	group string
	attrs []slog.Attr
}

// Enabled implements slog.Handler.
func (h callerLines) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (h callerLines) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.scopes = slices.Clone(h.scopes)
	if len(h.scopes) == 0 {
		h.scopes = []scope{{}}
	}
	last := &h.scopes[len(h.scopes)-1]
	last.attrs = append(slices.Clip(last.attrs), attrs...)
	return h
}

// WithGroup implements slog.Handler.
func (h callerLines) WithGroup(name string) slog.Handler {
	if name != "" {
		h.scopes = append(slices.Clip(h.scopes), scope{group: name})
	}
	return h
}

// Handle implements slog.Handler.
func (h callerLines) Handle(ctx context.Context, r slog.Record) error {
	attrs := make([]slog.Attr, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		return true
	})
	for _, s := range slices.Backward(h.scopes) {
		attrs = slices.Concat(s.attrs, attrs)
		if s.group != "" {
			attrs = []slog.Attr{{Key: s.group, Value: slog.GroupValue(attrs...)}}
		}
	}
	const room = maxLine - lineFrame
	limit := room
	for limit > leastValue && sizeOf(r.Message, limit)+sizeOfAll(attrs, 0, limit) > room {
		limit = max(limit*3/4, leastValue)
	}
	fitting := slog.NewRecord(r.Time, r.Level, cut(r.Message, limit), r.PC)
	left := room - sizeOf(r.Message, limit) - scalarSize
	for i, a := range attrs {
		if left -= sizeOfAll(attrs[i:i+1], 0, limit); left < 0 && limit == leastValue {
			fitting.AddAttrs(slog.Int("left_out", len(attrs)-i))
			break
		}
		fitting.AddAttrs(slog.Attr{Key: a.Key, Value: cutValue(a.Value, limit)})
	}
	return h.next.Handle(ctx, fitting)
}

// sizeOfAll is the maximum length of attrs in a line, their values cut to limit. prefix is the
// length of the names of the groups around them, which the text format repeats.
func sizeOfAll(attrs []slog.Attr, prefix, limit int) (size int) {
	const punctuation = 8 // `,"":""` or ` =""`, or `,"":{}` and a dot
	for _, a := range attrs {
		key := prefix + sizeOf(a.Key, maxLine)
		size += key + punctuation
		switch v := plain(a.Value); v.Kind() {
		case slog.KindString:
			size += sizeOf(v.String(), limit)
		case slog.KindGroup:
			size += sizeOfAll(v.Group(), key+1, limit)
		default:
			size += scalarSize
		}
		if size > maxLine {
			return size // too long already, whatever the rest adds
		}
	}
	return size
}

// cutValue returns v with its texts cut to limit.
func cutValue(v slog.Value, limit int) slog.Value {
	short := plain(v)
	switch short.Kind() {
	case slog.KindString:
		text := short.String()
		if v.Kind() == slog.KindAny && !isBytes(v) && sizeOf(text, maxLine) <= limit {
			return v // unchanged; in JSON it may be a list or an object
		}
		return slog.StringValue(cut(text, limit))
	case slog.KindGroup:
		var members []slog.Attr
		for _, a := range short.Group() {
			members = append(members, slog.Attr{Key: a.Key, Value: cutValue(a.Value, limit)})
		}
		return slog.GroupValue(members...)
	default:
		return short
	}
}

func isBytes(v slog.Value) bool {
	_, ok := v.Any().([]byte)
	return ok
}

// plain returns v as a text, a scalar or a group.
func plain(v slog.Value) (text slog.Value) {
	v = v.Resolve()
	if v.Kind() != slog.KindAny {
		return v
	}
	defer func() { // log/slog recovers from such values too
		if p := recover(); p != nil {
			text = slog.StringValue("!PANIC")
		}
	}()
	switch value := v.Any().(type) {
	case error:
		return slog.StringValue(value.Error())
	case []byte:
		return slog.StringValue(string(value))
	default:
		inText := fmt.Sprintf("%+v", value)
		inJSON, err := json.Marshal(value)
		if err != nil || sizeOf(inText, maxLine) > sizeOf(string(inJSON), maxLine) {
			return slog.StringValue(inText)
		}
		return slog.StringValue(string(inJSON))
	}
}

// sizeOf is the maximum length of text as JSON and text write it, or limit if it is longer.
func sizeOf(text string, limit int) int {
	size, _ := escaped(text, limit)
	return min(size, limit)
}

// cut returns text, or its beginning, cut to the length limit with a note of the original length.
func cut(text string, limit int) string {
	if size, _ := escaped(text, limit); size <= limit {
		return text
	}
	note := fmt.Sprintf("… (%d bytes)", len(text))
	_, end := escaped(text, limit-len(note))
	return text[:end] + note
}

// escaped returns the length of text, and the end of its longest prefix of length limit. It reads
// no more than it needs for that.
func escaped(text string, limit int) (size, end int) {
	for i := 0; i < len(text); {
		r, width := utf8.DecodeRuneInString(text[i:])
		cost := width
		switch {
		case r == '"' || r == '\\':
			cost = 2
		case r == utf8.RuneError || r < ' ':
			cost = 6 // \u000a, \ufffd
		case !unicode.IsPrint(r):
			cost = 10 // \U000e0001
		}
		if size += cost; size > limit {
			return size, i
		}
		i += width
	}
	return size, len(text)
}
