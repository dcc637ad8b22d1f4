// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Limits of a file. They are far above any file that an operator maintains, and low enough that a
// hostile file costs no more than a moment.
const (
	maxFileSize = 4 << 20 // bytes: 10,000 issuers have about 2 MiB
	maxNodes    = 400_000 // after aliases are expanded, which limits a "billion laughs"
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
	switch {
	case p.value == nil:
		return position{}
	case p.value.kind == yaml.ScalarNode:
		return p.value.at
	default:
		return p.key.at
	}
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
			d.mistake(jsonErrorAt(err, content), nil, "the file is not JSON, as which it is read because it begins with a brace: %v", err)
			return nil
		}
		content = d.yamlOfJSON(content)
	}
	document, second, err := documents(bytes.NewReader(content))
	if second.Kind != 0 {
		d.tolerated(position{second.Line, second.Column}, nil, "a second YAML document begins here, and only the first one is read")
	}
	if err != nil {
		at, text := yamlSyntaxError(err, content)
		d.mistake(at, nil, "%s", text)
	}
	if document.Kind == 0 || len(document.Content) != 1 {
		if len(d.mistakes) == 0 {
			d.mistake(position{1, 1}, nil, "the file is empty")
		}
		return nil
	}
	b := treeBuilder{decoder: d, open: map[*yaml.Node]bool{}}
	root := b.build(document.Content[0], 0)
	if b.nodes > maxNodes {
		d.mistake(root.at, nil, "the file holds more than %d values once its aliases are expanded", maxNodes)
		return nil
	}
	return root
}

// treeBuilder converts the nodes of the YAML package into nodes of this one. It expands each alias
// into a copy, and all copies count in one limit.
type treeBuilder struct {
	*decoder
	nodes int
	open  map[*yaml.Node]bool // anchored nodes under construction: an alias to one is endless
}

func (b *treeBuilder) build(y *yaml.Node, depth int) *node {
	n := &node{kind: y.Kind, at: position{y.Line, y.Column}}
	nothing := func() *node { return &node{kind: yaml.ScalarNode, tag: tagNull, at: n.at} }
	switch b.nodes++; {
	case b.nodes > maxNodes: // parse reports it
		return nothing()
	case depth > maxDepth:
		b.mistake(n.at, nil, "the values are nested more than %d deep", maxDepth)
		return nothing()
	case b.open[y.Alias]:
		b.mistake(n.at, nil, "the alias *%s is inside its own anchor", shorten(y.Value))
		return nothing()
	case y.Kind == yaml.AliasNode:
		aliased := b.build(y.Alias, depth+1)
		aliased.at = n.at // the place of its use; the contents keep the place where they are written
		aliased.implied = false
		return aliased
	}
	if y.Anchor != "" {
		b.open[y] = true
		defer delete(b.open, y)
	}
	switch y.Kind {
	case yaml.MappingNode:
		b.mapping(n, y, depth)
	case yaml.SequenceNode:
		for _, item := range y.Content {
			n.items = append(n.items, b.build(item, depth+1))
		}
	default:
		if n.tag, n.value = y.ShortTag(), y.Value; b.json && y.Style == 0 && n.tag == tagString {
			n.tag = tagFloat // which the YAML package takes for text if a float64 cannot hold it
		}
		n.implied = y.Tag == tagNull && y.Value == "" && y.Style == 0
	}
	return n
}

// mapping builds the pairs of a mapping: first its own, then those that it lacks and a merge key
// `<<` adds. Of several mappings in a list, an earlier one overrides a later one
// (https://yaml.org/type/merge.html).
func (b *treeBuilder) mapping(n *node, y *yaml.Node, depth int) {
	at := map[string]int{} // the index of a key's pair
	var merges []*node
	n.pairs = make([]pair, 0, len(y.Content)/2)
	for i := 0; i+1 < len(y.Content); i += 2 {
		p := pair{b.build(y.Content[i], depth+1), b.build(y.Content[i+1], depth+1)}
		if p.value.implied {
			p.value.at = p.key.at
		}
		first, repeated := at[p.key.value]
		switch {
		case b.nodes > maxNodes: // parse reports it
			return
		case p.key.kind != yaml.ScalarNode:
			b.mistake(p.key.at, nil, "found %s as a key, expected text", p.key.what())
		case p.key.tag == tagMerge:
			merges = append(merges, p.value)
		case !repeated:
			at[p.key.value] = len(n.pairs)
			n.pairs = append(n.pairs, p)
		case b.json:
			b.repeated(p.key, nil, n.pairs[first].key.at)
			n.pairs[first] = p
		default:
			b.mistake(p.key.at, nil, "the key %q is repeated, first in line %d", shorten(p.key.value), n.pairs[first].key.at.line)
		}
	}
	for _, from := range merges {
		sources, expected := []*node{from}, "a mapping or a list of mappings"
		if from.kind == yaml.SequenceNode {
			sources, expected = from.items, "a mapping"
		}
		for _, source := range sources {
			if source.kind != yaml.MappingNode {
				b.mistake(source.at, nil, "found %s, expected %s for <<", source.what(), expected)
			}
			for _, p := range source.pairs {
				if _, ok := at[p.key.value]; !ok {
					at[p.key.value] = len(n.pairs)
					n.pairs = append(n.pairs, p)
				}
			}
		}
	}
}
