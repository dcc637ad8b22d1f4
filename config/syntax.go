// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
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

// yamlSyntaxError returns the place of an error of the YAML package, and a sentence. The package
// gives at most a line, which is one too low if its parser, not its scanner, complains; without a
// line, it is line 1.
func yamlSyntaxError(err error, content []byte) (position, string) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if n, _ := fmt.Sscanf(text, "line %d:", &line); n == 1 {
		_, text, _ = strings.Cut(text, ": ")
		if strings.HasPrefix(text, "did not find expected") {
			line++
		}
	}
	if rest, ok := strings.CutPrefix(text, "unknown anchor '"); ok {
		name := strings.TrimSuffix(rest, "' referenced")
		if i := bytes.Index(content, []byte("*"+name)); i >= 0 {
			return positionAt(content, i), "the alias *" + shorten(name) + " has no anchor &" + shorten(name) + " before it"
		}
	}
	at, hint := yamlHint(text, line, content)
	return at, "the file is not YAML: " + text + hint
}

// yamlHint guesses the author's mistake at the place of a scanner error.
func yamlHint(text string, line int, content []byte) (position, string) {
	here := lineOf(content, line)
	at := position{line, indentation(here) + 1}
	switch {
	case strings.HasPrefix(strings.TrimLeft(here, " "), "\t"):
		return position{line, len(here) - len(strings.TrimLeft(here, " ")) + 1}, "; there is a tab here, and YAML is indented with spaces only"
	case strings.ContainsRune(here, '\u00a0'):
		before, _, _ := strings.Cut(here, "\u00a0")
		return position{line, utf8.RuneCountInString(before) + 1}, "; there is a no-break space here, which YAML does not read as a space"
	case strings.HasPrefix(text, "mapping values"):
		// A key without a space after its colon is text, which the next line appears to continue.
		above := lineOf(content, line-1)
		key, value, ok := strings.Cut(strings.TrimSpace(above), ":")
		if ok && value != "" && value[0] != ' ' && !strings.ContainsAny(key, " \"'#") {
			return position{line - 1, indentation(above) + len(key) + 1}, "; a space must follow this colon"
		}
		return at, "; is the line indented like its neighbours, and is text with a colon and a space in it in quotes?"
	case text == "found unexpected end of stream":
		return at, "; is a quote or a bracket missing that ends what begins here?"
	}
	return at, ""
}

// indentation returns the number of spaces and tabs at the start of a line.
func indentation(line string) int { return len(line) - len(strings.TrimLeft(line, " \t")) }

// lineOf returns a line, counted from 1, without its end; "" if there is none.
func lineOf(content []byte, line int) string {
	lines := bytes.SplitN(content, []byte("\n"), max(line, 0)+1)
	if line < 1 || line > len(lines) {
		return ""
	}
	return string(lines[line-1])
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
