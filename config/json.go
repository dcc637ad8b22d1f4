// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

// parseJSON returns the tree of a JSON file, or nil if there is none; it records mistakes in r.
func parseJSON(r *report, content []byte) *node {
	// Unmarshal into a RawMessage only checks the syntax of the whole; the token reader
	// below checks less.
	var whole json.RawMessage
	if err := json.Unmarshal(content, &whole); err != nil {
		offset := 0
		if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
			offset = int(syntax.Offset) - 1 // it counts the bytes read
		}
		if strings.HasPrefix(err.Error(), "unexpected end") {
			offset = len(bytes.TrimRight(content, " \t\r\n"))
		}
		r.mistake(positionAt(content, max(offset, 0)),
			"the file is not JSON, as which it is read because it begins with a brace: %v", err)
		return nil
	}
	p := jsonParser{report: r, content: content, tokens: json.NewDecoder(bytes.NewReader(content)), here: position{1, 1}}
	p.tokens.UseNumber()
	root := p.value(0)
	if p.stopped {
		return nil
	}
	return root
}

// jsonParser reads tokens of a file with checked syntax.
type jsonParser struct {
	*report
	content []byte
	tokens  *json.Decoder
	nodes   int
	stopped bool
	// here is the place of the byte at offset: one pass finds all positions.
	offset int
	here   position
}

// next returns the next token and its place.
func (p *jsonParser) next() (json.Token, position) {
	start := int(p.tokens.InputOffset())
	for start < len(p.content) && strings.IndexByte(" \t\r\n,:", p.content[start]) >= 0 {
		start++
	}
	for ; p.offset < start; p.offset++ {
		switch c := p.content[p.offset]; {
		case c == '\n':
			p.here = position{p.here.line + 1, 1}
		case utf8.RuneStart(c):
			p.here.column++
		}
	}
	at := p.here
	token, err := p.tokens.Token()
	if err != nil {
		p.stop(at, "the file is not JSON: "+err.Error())
	}
	return token, at
}

func (p *jsonParser) stop(at position, text string) *node {
	if !p.stopped {
		p.stopped = true
		p.mistake(at, "%s", text)
	}
	return &node{kind: scalar, tag: tagNull, at: at}
}

func (p *jsonParser) value(depth int) *node {
	token, at := p.next()
	p.nodes++
	switch {
	case p.stopped:
		return p.stop(at, "")
	case p.nodes > maxNodes:
		return p.stop(at, "the file holds more than "+strconv.Itoa(maxNodes)+" values")
	case depth > maxDepth:
		return p.stop(at, "the values are nested more than "+strconv.Itoa(maxDepth)+" deep")
	}
	n := &node{kind: scalar, at: at}
	switch t := token.(type) {
	case string:
		n.tag, n.value = tagString, t
	case json.Number:
		n.tag, n.value = tagInt, t.String()
		if strings.ContainsAny(n.value, ".eE") {
			n.tag = tagFloat
		}
	case bool:
		n.tag, n.value = tagBool, strconv.FormatBool(t)
	case nil:
		n.tag, n.value = tagNull, "null"
	case json.Delim:
		p.children(n, t, depth)
	default:
		return p.stop(at, "this is no JSON value")
	}
	return n
}

// children reads up to and including the closing delimiter.
func (p *jsonParser) children(n *node, open json.Delim, depth int) {
	n.kind = sequence
	if open == '{' {
		n.kind = mapping
	}
	seen := map[string]int{}
	for !p.stopped && p.tokens.More() {
		if n.kind == sequence {
			n.items = append(n.items, p.value(depth+1))
			continue
		}
		key := p.value(depth + 1)
		value := p.value(depth + 1)
		if p.stopped {
			return
		}
		if earlier := n.put(seen, key, value); earlier != nil {
			p.tolerated(key.at, "the key %q is repeated, first in line %d, and the last one counts", shorten(key.value), earlier.at.line)
		}
	}
	if !p.stopped {
		p.next()
	}
}
