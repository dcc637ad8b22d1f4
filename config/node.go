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

	"go.yaml.in/yaml/v3"
)

// Limits of a file. They are far above any file that an operator maintains, and low enough that a
// hostile file costs no more than a moment.
const (
	maxFileSize = 1 << 20 // bytes
	maxNodes    = 100_000 // after aliases are expanded, which limits a "billion laughs"
	maxDepth    = 64
)

// YAML's tags of scalars.
const (
	tagString    = "!!str"
	tagInt       = "!!int"
	tagFloat     = "!!float"
	tagBool      = "!!bool"
	tagNull      = "!!null"
	tagTimestamp = "!!timestamp"
	tagMerge     = "!!merge"
)

// position is a place in a file, both numbers from 1.
type position struct{ line, column int }

// node is a value of a file, with aliases and merge keys replaced by what they refer to. A node
// occurs once in its tree, so that maxNodes limits a walk. The nil node is an absent value.
type node struct {
	kind yaml.Kind // a scalar, mapping or sequence
	at   position
	// tag and value are those of a scalar. The value of a number is as it was written.
	tag, value string
	// implied marks the null of a key without a value, which is at the place of its key.
	implied bool
	pairs   []pair  // of a mapping, in the order of the file, each key once
	items   []*node // of a sequence
}

// pair is an entry of a mapping. The key is a scalar of any tag: only its text matters.
type pair struct{ key, value *node }

// place returns the place that mistakes about the pair show: for a scalar that of the value, for a
// mapping or a list that of its key, because the contents have places of their own.
func (p pair) place() position {
	if p.value.kind == yaml.ScalarNode {
		return p.value.at
	}
	return p.key.at
}

// put adds a pair, or replaces the value of an existing key, and returns the existing key.
func (n *node) put(seen map[string]int, p pair) (earlier *node) {
	if i, ok := seen[p.key.value]; ok {
		earlier = n.pairs[i].key
		n.pairs[i] = p
		return earlier
	}
	seen[p.key.value] = len(n.pairs)
	n.pairs = append(n.pairs, p)
	return nil
}

// isNull reports whether the value is absent or null.
func (n *node) isNull() bool { return n == nil || n.kind == yaml.ScalarNode && n.tag == tagNull }

// truth returns the value of true or false. A tag in the file does not make other text one.
func (n *node) truth() (value, ok bool) {
	value = strings.EqualFold(n.value, "true")
	return value, n.kind == yaml.ScalarNode && n.tag == tagBool && (value || strings.EqualFold(n.value, "false"))
}

// what describes the value for a sentence that states what was found.
func (n *node) what() string {
	switch {
	case n.kind == yaml.MappingNode:
		return "a mapping"
	case n.kind == yaml.SequenceNode:
		return "a list"
	case n.implied:
		return "nothing"
	}
	switch n.tag {
	case tagString:
		return "text"
	case tagInt, tagFloat:
		return "the number " + shorten(n.value)
	case tagNull:
		return "null"
	case tagBool:
		return "the truth value " + shorten(n.value)
	case tagTimestamp:
		return "the date " + shorten(n.value)
	default:
		return "a value tagged " + shorten(n.tag)
	}
}

// shorten keeps a sentence readable for any content of the file.
func shorten(s string) string {
	const most = 100
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return s
}

// parse returns the tree of a file, or nil if there is none. The YAML package parses JSON too, once
// its syntax has been checked; a JSON value has the tag of its YAML equal.
func (d *decoder) parse(content []byte) *node {
	if d.json {
		var whole json.RawMessage // Unmarshal into it only checks the syntax
		if err := json.Unmarshal(content, &whole); err != nil {
			d.mistake(jsonErrorAt(err, content), "the file is not JSON, as which it is read because it begins with a brace: %v", err)
			return nil
		}
		brace := bytes.IndexByte(content, '{')
		object := bytes.TrimRight(content[brace:], " \t\r\n")
		// YAML permits tabs only inside of the braces.
		content = append(bytes.ReplaceAll(content[:brace], []byte("\t"), []byte(" ")), jsonEscapes.ReplaceAllFunc(object, yamlEscape)...)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var document, second yaml.Node
	err := decoder.Decode(&document)
	if err == nil {
		if err = decoder.Decode(&second); err == nil {
			d.tolerated(position{second.Line, second.Column}, "a second YAML document begins here, and only the first one is read")
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		at, text := yamlSyntaxError(err, content)
		d.mistake(at, "%s", text)
	}
	if document.Kind == 0 || len(document.Content) != 1 {
		if len(d.mistakes) == 0 {
			d.mistake(position{1, 1}, "the file is empty")
		}
		return nil
	}
	b := treeBuilder{decoder: d, open: map[*yaml.Node]bool{}}
	root := b.build(document.Content[0], 0)
	if b.stopped {
		return nil
	}
	return root
}

// jsonEscapes matches the escapes of JSON that the YAML package does not read: a slash, and a
// character as two UTF-16 units. It also matches an escaped backslash, which begins neither.
var jsonEscapes = regexp.MustCompile(`\\[\\/]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}`)

func yamlEscape(escaped []byte) []byte {
	switch string(escaped) {
	case `\\`:
		return escaped
	case `\/`:
		return []byte("/")
	}
	high, _ := strconv.ParseUint(string(escaped[2:6]), 16, 16)
	low, _ := strconv.ParseUint(string(escaped[8:12]), 16, 16)
	return fmt.Appendf(nil, `\U%08x`, utf16.DecodeRune(rune(high), rune(low)))
}

// treeBuilder converts the nodes of the YAML package into nodes of this one. It expands each alias
// into a copy, and all copies count in one limit.
type treeBuilder struct {
	*decoder
	nodes   int
	open    map[*yaml.Node]bool // anchored nodes under construction: an alias to one is endless
	stopped bool                // a limit was exceeded: the tree is incomplete
}

// stop records the first limit that was exceeded.
func (b *treeBuilder) stop(at position, format string, args ...any) *node {
	if !b.stopped {
		b.stopped = true
		b.mistake(at, format, args...)
	}
	return &node{kind: yaml.ScalarNode, tag: tagNull, at: at}
}

func (b *treeBuilder) build(y *yaml.Node, depth int) *node {
	at := position{y.Line, y.Column}
	b.nodes++
	switch {
	case b.stopped:
		return b.stop(at, "")
	case b.nodes > maxNodes:
		return b.stop(at, "the file holds more than %d values once its aliases are expanded", maxNodes)
	case depth > maxDepth:
		return b.stop(at, "the values are nested more than %d deep", maxDepth)
	}
	n := &node{kind: y.Kind, at: at}
	switch y.Kind {
	case yaml.AliasNode:
		if b.open[y.Alias] {
			return b.stop(at, "the alias *%s is inside its own anchor", shorten(y.Value))
		}
		n = b.build(y.Alias, depth+1)
		n.at = at // the place of its use; the contents keep the place where they are written
		n.implied = false
	case yaml.ScalarNode:
		n.tag, n.value = y.ShortTag(), y.Value
		n.implied = y.Tag == tagNull && y.Value == "" && y.Style == 0
	case yaml.SequenceNode, yaml.MappingNode:
		b.open[y] = true
		defer delete(b.open, y)
		if y.Kind == yaml.MappingNode {
			b.mapping(n, y, depth)
			break
		}
		for _, item := range y.Content {
			n.items = append(n.items, b.build(item, depth+1))
		}
	default:
		return b.stop(at, "this is no YAML value")
	}
	return n
}

// mapping builds the pairs of a mapping: first its own, then those that it lacks and a merge key
// `<<` adds.
func (b *treeBuilder) mapping(n *node, y *yaml.Node, depth int) {
	seen := map[string]int{}
	var merges []*node
	for i := 0; i+1 < len(y.Content) && !b.stopped; i += 2 {
		p := pair{b.build(y.Content[i], depth+1), b.build(y.Content[i+1], depth+1)}
		if p.value.implied {
			p.value.at = p.key.at
		}
		switch {
		case b.stopped:
		case p.key.kind != yaml.ScalarNode:
			b.mistake(p.key.at, "found %s as a key, expected text", p.key.what())
		case p.key.tag == tagMerge:
			merges = append(merges, p.value)
		default:
			if earlier := n.put(seen, p); earlier != nil && b.json {
				b.repeated(p.key, earlier.at)
			} else if earlier != nil {
				b.mistake(p.key.at, "the key %q is repeated, first in line %d", shorten(p.key.value), earlier.at.line)
			}
		}
	}
	for _, from := range merges {
		b.merge(n, seen, from)
	}
}

// merge adds the pairs that n lacks. Of several mappings in a list, an earlier one overrides a
// later one (https://yaml.org/type/merge.html).
func (b *treeBuilder) merge(n *node, seen map[string]int, from *node) {
	sources, expected := []*node{from}, "a mapping or a list of mappings"
	if from.kind == yaml.SequenceNode {
		sources, expected = from.items, "a mapping"
	}
	for _, source := range sources {
		if source.kind != yaml.MappingNode {
			b.mistake(source.at, "found %s, expected %s for <<", source.what(), expected)
		}
		for _, p := range source.pairs {
			if _, ok := seen[p.key.value]; !ok {
				n.put(seen, p)
			}
		}
	}
}
