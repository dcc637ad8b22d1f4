// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// jsonErrorAt returns the place of an error of encoding/json.
func jsonErrorAt(err error, content []byte) position {
	offset := 0
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		offset = int(syntax.Offset) - 1 // it counts the bytes read
	}
	if strings.HasPrefix(err.Error(), "unexpected end") {
		offset = len(bytes.TrimRight(content, " \t\r\n"))
	}
	return positionAt(content, max(offset, 0))
}

// jsonParts matches what the YAML package does not read as JSON: an escaped slash, a character as two
// UTF-16 units, half of one, raw characters that are no text of YAML or end its lines, and a colon in
// another line than its key. It also matches escapes that hide a quote or a backslash, and quotes.
var jsonParts = regexp.MustCompile(`\\["\\/]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|` +
	`[\x{80}-\x{9f}\x{2028}\x{2029}\x{feff}\x{fffe}\x{ffff}]|"\s*\n\s*:|"`)

// yamlOfJSON returns a JSON object in a form that the YAML package reads. Spaces after a text that
// becomes shorter keep the columns of what follows.
func (d *decoder) yamlOfJSON(content []byte) []byte {
	brace := bytes.IndexByte(content, '{')
	out := bytes.ReplaceAll(content[:brace], []byte("\t"), []byte(" ")) // YAML permits tabs only inside of the braces
	content = bytes.TrimRight(content, " \t\r\n")
	end, spaces := brace, 0
	for _, part := range jsonParts.FindAllIndex(content[brace:], -1) {
		begin := brace + part[0]
		out = append(out, content[end:begin]...)
		end = brace + part[1]
		switch found := string(content[begin:end]); {
		case found == `"`:
			out = append(append(out, '"'), bytes.Repeat([]byte(" "), max(spaces, 0))...)
			spaces = 0
		case found[0] == '"':
			out = append(out, `":`+found[1:len(found)-1]+" "...)
			spaces = 0
		case found == `\/`:
			out = append(out, '/')
			spaces++
		case len(found) == len(`\ud83d\ude00`):
			high, _ := strconv.ParseUint(found[2:6], 16, 16)
			low, _ := strconv.ParseUint(found[8:12], 16, 16)
			out = fmt.Appendf(out, `\U%08x`, utf16.DecodeRune(rune(high), rune(low)))
			spaces += 2
		case len(found) == len(`\ud83d`):
			d.mistake(positionAt(content, begin), nil, `found %s, which is half of a character; the other half is missing, as in \ud83d\ude00`, found)
			out = append(out, `\ufffd`...)
		case found[0] == '\\':
			out = append(out, found...)
		default:
			r, _ := utf8.DecodeRuneInString(found)
			out = fmt.Appendf(out, `\u%04x`, r)
			spaces -= 5
		}
	}
	return append(out, content[end:]...)
}

// yamlSyntaxError returns the place of an error of the YAML package, and a sentence. The package gives
// at most a line, often that of the mapping or list around the author's mistake.
func yamlSyntaxError(err error, content []byte) (position, string) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if strings.HasPrefix(text, "line ") {
		_, text, _ = strings.Cut(text, ": ")
	}
	if rest, ok := strings.CutPrefix(text, "unknown anchor '"); ok {
		name := strings.TrimSuffix(rest, "' referenced")
		if i := bytes.Index(content, []byte("*"+name)); i >= 0 {
			return positionAt(content, i), "the alias *" + shorten(name) + " has no anchor &" + shorten(name) + " before it"
		}
	}
	begin, last, end := unreadable(content)
	at, hint := yamlHint(text, begin, end, last, content)
	text = "the file is not YAML: " + text + hint
	if last.Line > 0 { // which may be a secret
		text += fmt.Sprintf("; the last text that could be read is at line %d, column %d", last.Line, last.Column)
	}
	return at, text
}

// documents reads the first two documents; the kind of one that is absent is 0.
func documents(from io.Reader) (first, second yaml.Node, err error) {
	decoder := yaml.NewDecoder(from)
	if err = decoder.Decode(&first); err == nil {
		err = decoder.Decode(&second)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return first, second, err
}

// unreadable returns the offset of the line from which on content is not YAML, the last text before it,
// and the offset at which the YAML package stops.
func unreadable(content []byte) (begin int, last yaml.Node, end int) {
	budget := 4 << 20 // bytes that may be read again
	rest := slowReader{bytes.NewReader(content)}
	_, _, _ = documents(rest)
	end = len(content) - rest.Len()
	for begin = end; begin > 0; budget -= begin {
		begin = bytes.LastIndexByte(content[:begin-1], '\n') + 1
		document, _, err := documents(bytes.NewReader(content[:begin]))
		if err == nil || budget < 0 {
			return begin, lastText(document), end
		}
	}
	return 0, last, end
}

// slowReader reads one byte at a time, so that the YAML package is never far ahead.
type slowReader struct{ *bytes.Reader }

func (r slowReader) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 1)]) }

// lastText returns the last text of a tree; zero if there is none.
func lastText(n yaml.Node) yaml.Node {
	for len(n.Content) > 0 {
		next := n.Content[len(n.Content)-1]
		if next.Kind == yaml.ScalarNode && next.Value == "" && len(n.Content) > 1 {
			next = n.Content[len(n.Content)-2] // the key of nothing
		}
		n = *next
	}
	return n
}

// yamlHints are mistakes that authors make, by the error of the YAML package, if it matters, and the
// line with the mistake. The group is its place. After those, the last ones are found in the line before.
var yamlHints = []struct {
	err  string
	line *regexp.Regexp
	hint string
}{
	{"", regexp.MustCompile(`^ *(\t)`), "there is a tab here, and YAML is indented with spaces only"},
	{"", regexp.MustCompile(`(\x{a0})`), "there is a no-break space here, which YAML does not read as a space"},
	{"", regexp.MustCompile(`(?:^ *|: +|- +|[\[{,] *)('(?:[^']|'')*$|"(?:[^"\\]|\\.)*$)`), "the quote that begins here does not end in this line"},
	{"did not find", regexp.MustCompile(`(?:: +|- +)(?:'(?:[^']|'')*'|"(?:[^"\\]|\\.)*") *([^\s#:,}\]])`), "the text in quotes ends before this; put all of it in quotes of the other kind"},
	{"escape character", regexp.MustCompile(`"[^"\\]*(?:\\["\\/0abefnrtvxuUN_LP ][^"\\]*)*(\\)`), "in double quotes this begins an escape; write it twice, or use single quotes"},
	{"cannot start", regexp.MustCompile("(?:^|: |- ) *([@%`])"), "text that begins with this character must be in quotes"},
	{"alphabetic", regexp.MustCompile(`(?:^|: |- ) *([*&])`), "text that begins with this character must be in quotes"},
	{"mapping values", regexp.MustCompile(`: +[^"'\[{\s].*?(:)(?: |$)`), "text with a colon and a space in it must be in quotes"},
	{"", regexp.MustCompile(`^ *(-)[A-Za-z]`), "a space must follow this dash"},
	{"", regexp.MustCompile(`^[ -]*[A-Za-z][A-Za-z_-]*(:)[^ /]`), "a space must follow this colon"},
}

// yamlHint returns the place of the author's mistake and what it probably is. The lines before begin are
// YAML, and last is the text at their end; the YAML package stops at end.
func yamlHint(text string, begin, end int, last yaml.Node, content []byte) (position, string) {
	line, _, _ := bytes.Cut(content[begin:], []byte("\n"))
	above := content[bytes.LastIndexByte(content[:max(begin-1, 0)], '\n')+1 : begin]
	first := begin + len(line) - len(bytes.TrimLeft(line, " "))
	for _, known := range yamlHints {
		if place := known.line.FindSubmatchIndex(line); place != nil && strings.Contains(text, known.err) {
			return positionAt(content, begin+place[2]), "; " + known.hint
		}
	}
	open, extra := brackets(content[:end], begin)
	switch {
	case strings.Contains(text, "',' or"), strings.HasSuffix(text, "node content") && content[open] == '{':
		return positionAt(content, open), "; the bracket that begins here is not closed, or there is a mistake inside of it"
	case extra >= 0:
		return positionAt(content, extra), "; this bracket closes none"
	case strings.HasPrefix(text, "mapping values"):
		for _, known := range yamlHints[len(yamlHints)-2:] {
			if place := known.line.FindSubmatchIndex(above); place != nil {
				return positionAt(content, begin-len(above)+place[2]), "; " + known.hint
			}
		}
		if last.Line > 0 && !bytes.Contains(above, []byte(": ")) {
			return position{last.Line, last.Column}, "; a colon is missing after this, or the next line is indented too far"
		}
		return positionAt(content, first), "; is this line indented like its neighbours?"
	case strings.HasSuffix(text, "expected ':'"):
		return positionAt(content, first), "; a colon and a space must follow a key, and text that continues the line before is indented further than its key"
	case strings.HasSuffix(text, "expected key"), strings.HasSuffix(text, "indicator"):
		return positionAt(content, first), "; is this line indented like its neighbours?"
	}
	return positionAt(content, first), ""
}

// brackets returns the offset of the innermost bracket in content[begin:] that is open at its end, or
// otherwise of the first one; and of the last bracket that closes none, or -1.
func brackets(content []byte, begin int) (open, extra int) {
	opened, extra := []int{begin + max(bytes.IndexAny(content[begin:], "[{"), 0)}, -1
	for i := begin; i < len(content); i++ {
		switch c := content[i]; {
		case c == '[' || c == '{':
			opened = append(opened, i)
		case (c == ']' || c == '}') && len(opened) > 1:
			opened = opened[:len(opened)-1]
		case c == ']' || c == '}':
			extra = i
		}
	}
	return opened[len(opened)-1], extra
}

// positionAt returns the place of a byte: lines end in a newline, columns count characters.
func positionAt(content []byte, offset int) position {
	before := content[:min(offset, len(content))]
	start := bytes.LastIndexByte(before, '\n') + 1
	return position{bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(before[start:]) + 1}
}

// firstNotText returns the index of the first byte that is not valid UTF-8, or is a control
// character that YAML and JSON do not permit unescaped; or -1.
func firstNotText(content []byte) int {
	for i := 0; i < len(content); {
		r, size := utf8.DecodeRune(content[i:])
		if r == utf8.RuneError && size == 1 || r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0x7f {
			return i
		}
		i += size
	}
	return -1
}
