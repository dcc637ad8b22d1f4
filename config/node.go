// SPDX-License-Identifier: Apache-2.0

package config

import "strings"

// Limits of a file. They are far above any file that an operator maintains, and low enough that a
// hostile file costs no more than a moment.
const (
	maxFileSize = 1 << 20 // bytes
	maxNodes    = 100_000 // after aliases are expanded, which limits a "billion laughs"
	maxDepth    = 64
)

type kind uint8

const (
	scalar kind = iota + 1
	mapping
	sequence
)

// YAML's tags of scalars. A JSON value has the tag of its YAML equal.
const (
	tagString    = "!!str"
	tagInt       = "!!int"
	tagFloat     = "!!float"
	tagBool      = "!!bool"
	tagNull      = "!!null"
	tagTimestamp = "!!timestamp"
	tagMerge     = "!!merge"
)

// node is a value of a YAML or JSON file, with aliases and merge keys replaced by what they refer
// to. A node occurs once in its tree, so that maxNodes limits a walk.
type node struct {
	kind kind
	at   position
	// tag and value are those of a scalar. The value of a number is as it was written.
	tag, value string
	// implied marks the null of a key without a value, which has no place of its own.
	implied bool
	pairs   []pair  // of a mapping, in the order of the file, each key once
	items   []*node // of a sequence
}

// pair is an entry of a mapping. The key is a scalar of any tag: only its text matters.
type pair struct{ key, value *node }

// lookup returns the pair of a key.
func (n *node) lookup(key string) (pair, bool) {
	for _, p := range n.pairs {
		if p.key.value == key {
			return p, true
		}
	}
	return pair{}, false
}

// put adds a pair, or replaces the value of an existing key, and returns the existing key.
func (n *node) put(seen map[string]int, key, value *node) (earlier *node) {
	if i, ok := seen[key.value]; ok {
		earlier = n.pairs[i].key
		n.pairs[i] = pair{key, value}
		return earlier
	}
	seen[key.value] = len(n.pairs)
	n.pairs = append(n.pairs, pair{key, value})
	return nil
}

// isNull reports whether the value is absent or null.
func (n *node) isNull() bool { return n.kind == scalar && n.tag == tagNull }

// truth returns the value of true or false. A tag in the file does not make other text one.
func (n *node) truth() (value, ok bool) {
	value = strings.EqualFold(n.value, "true")
	return value, n.kind == scalar && n.tag == tagBool && (value || strings.EqualFold(n.value, "false"))
}

// what describes the value for a sentence that states what was found.
func (n *node) what() string {
	switch {
	case n.kind == mapping:
		return "a mapping"
	case n.kind == sequence:
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
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	return string(runes[:most]) + "…"
}
