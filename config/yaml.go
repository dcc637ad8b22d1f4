// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// parseYAML returns the tree of a YAML file, or nil if there is none; it records mistakes in r.
func parseYAML(r *report, content []byte) *node {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		r.mistake(position{1, 1}, "the file is empty")
		return nil
	case err != nil:
		at, text := yamlSyntaxError(err, content)
		r.mistake(at, "%s", text)
		return nil
	}
	var second yaml.Node
	switch err := decoder.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		at, text := yamlSyntaxError(err, content)
		r.mistake(at, "%s", text)
	default:
		r.tolerated(position{second.Line, second.Column},
			"a second YAML document begins here, and only the first one is read")
	}
	if len(document.Content) != 1 {
		r.mistake(position{1, 1}, "the file is empty")
		return nil
	}
	b := yamlBuilder{report: r, open: map[*yaml.Node]bool{}}
	root := b.build(document.Content[0], 0)
	if b.stopped {
		return nil
	}
	return root
}

// yamlBuilder converts the nodes of the YAML package into nodes of this one. It expands each alias
// into a copy, and all copies count in one limit.
type yamlBuilder struct {
	*report
	nodes   int
	open    map[*yaml.Node]bool // anchored nodes under construction: an alias to one is endless
	stopped bool                // a limit was exceeded: the tree is incomplete
}

// stop records the first limit that was exceeded.
func (b *yamlBuilder) stop(at position, text string) *node {
	if !b.stopped {
		b.stopped = true
		b.mistake(at, "%s", text)
	}
	return &node{kind: scalar, tag: tagNull, at: at}
}

func (b *yamlBuilder) build(y *yaml.Node, depth int) *node {
	at := position{y.Line, y.Column}
	b.nodes++
	switch {
	case b.stopped:
		return b.stop(at, "")
	case b.nodes > maxNodes:
		return b.stop(at, "the file holds more than "+strconv.Itoa(maxNodes)+" values once its aliases are expanded")
	case depth > maxDepth:
		return b.stop(at, "the values are nested more than "+strconv.Itoa(maxDepth)+" deep")
	}
	switch y.Kind {
	case yaml.AliasNode:
		if b.open[y.Alias] {
			return b.stop(at, "the alias *"+shorten(y.Value)+" is inside its own anchor")
		}
		n := b.build(y.Alias, depth+1)
		n.at = at // the place of its use; the contents keep the place where they are written
		n.implied = false
		return n
	case yaml.ScalarNode:
		return &node{
			kind: scalar, at: at, tag: y.ShortTag(), value: y.Value,
			implied: y.Tag == tagNull && y.Value == "" && y.Style == 0,
		}
	case yaml.SequenceNode:
		b.open[y] = true
		defer delete(b.open, y)
		n := &node{kind: sequence, at: at}
		for _, item := range y.Content {
			n.items = append(n.items, b.build(item, depth+1))
		}
		return n
	case yaml.MappingNode:
		b.open[y] = true
		defer delete(b.open, y)
		return b.mapping(y, depth)
	default:
		return b.stop(at, "this is no YAML value")
	}
}

// mapping builds the pairs of a mapping: first its own, then those that it lacks and a merge key
// `<<` adds.
func (b *yamlBuilder) mapping(y *yaml.Node, depth int) *node {
	n := &node{kind: mapping, at: position{y.Line, y.Column}}
	seen := map[string]int{}
	var merges []*node
	for i := 0; i+1 < len(y.Content); i += 2 {
		key := b.build(y.Content[i], depth+1)
		value := b.build(y.Content[i+1], depth+1)
		switch {
		case b.stopped:
			return n
		case key.kind != scalar:
			b.mistake(key.at, "found %s as a key, expected text", key.what())
		case key.tag == tagMerge:
			merges = append(merges, value)
		default:
			if earlier := n.put(seen, key, value); earlier != nil {
				b.mistake(key.at, "the key %q is repeated, first in line %d", shorten(key.value), earlier.at.line)
			}
		}
	}
	for _, from := range merges {
		b.merge(n, seen, from)
	}
	return n
}

// merge adds the pairs that n lacks. Of several mappings in a list, an earlier one overrides a
// later one (https://yaml.org/type/merge.html).
func (b *yamlBuilder) merge(n *node, seen map[string]int, from *node) {
	switch from.kind {
	case mapping:
		for _, p := range from.pairs {
			if _, ok := seen[p.key.value]; !ok {
				n.put(seen, p.key, p.value)
			}
		}
	case sequence:
		for _, item := range from.items {
			if item.kind != mapping {
				b.mistake(item.at, "found %s, expected a mapping for <<", item.what())
				continue
			}
			b.merge(n, seen, item)
		}
	default:
		b.mistake(from.at, "found %s, expected a mapping or a list of mappings for <<", from.what())
	}
}

// yamlSyntaxError returns the place of an error of the YAML package. The package gives at most a
// line, which is one too low if its parser, not its scanner, complains; without a line, it is line
// 1.
func yamlSyntaxError(err error, content []byte) (position, string) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if number, message, ok := strings.Cut(rest, ": "); ok {
			if parsed, err := strconv.Atoi(number); err == nil {
				line, text = parsed, message
				if strings.HasPrefix(text, "did not find expected") {
					line++
				}
			}
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
	at := position{line, indentation(content, line) + 1}
	here := lineOf(content, line)
	switch {
	case strings.HasPrefix(strings.TrimLeft(here, " "), "\t"):
		return position{line, len(here) - len(strings.TrimLeft(here, " ")) + 1}, "; there is a tab here, and YAML is indented with spaces only"
	case strings.ContainsRune(here, '\u00a0'):
		before, _, _ := strings.Cut(here, "\u00a0")
		return position{line, utf8.RuneCountInString(before) + 1}, "; there is a no-break space here, which YAML does not read as a space"
	case strings.HasPrefix(text, "mapping values"):
		// A key without a space after its colon is text, which the next line appears to continue.
		above := strings.TrimSpace(lineOf(content, line-1))
		if key, value, ok := strings.Cut(above, ":"); ok && value != "" && value[0] != ' ' && !strings.ContainsAny(key, " \"'#") {
			return position{line - 1, indentation(content, line-1) + len(key) + 1}, "; a space must follow this colon"
		}
		return at, "; is the line indented like its neighbours, and is text with a colon and a space in it in quotes?"
	case text == "found unexpected end of stream":
		return at, "; is a quote or a bracket missing that ends what begins here?"
	}
	return at, ""
}

// indentation returns the number of spaces at the start of a line.
func indentation(content []byte, line int) int {
	text := lineOf(content, line)
	return len(text) - len(strings.TrimLeft(text, " \t"))
}

// lineOf returns a line, counted from 1, without its end; "" if there is none.
func lineOf(content []byte, line int) string {
	for range line - 1 {
		_, rest, ok := bytes.Cut(content, []byte("\n"))
		if !ok {
			return ""
		}
		content = rest
	}
	text, _, _ := bytes.Cut(content, []byte("\n"))
	return string(text)
}

// positionAt returns the place of a byte: lines end in a newline, columns count characters.
func positionAt(content []byte, offset int) position {
	before := content[:min(offset, len(content))]
	start := bytes.LastIndexByte(before, '\n') + 1
	return position{bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(before[start:]) + 1}
}
