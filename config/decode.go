// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/suggest"
)

// decoder fills Go values from nodes. It never stops at a mistake: it records the mistake and
// continues, so that one reading reports every mistake.
type decoder struct {
	*report
	// json states that keys are spelled as in JSON.
	json bool
	// plain states that a number, a truth value or a date is accepted where text is required: the
	// peer reads it as it is written.
	plain bool
}

// reader reads the value of a key.
type reader func(n *node)

// field is a key of a mapping.
type field struct {
	name string // as spelled in YAML, and in every key path
	json string // as spelled in JSON; "" if the key does not exist there
	read reader
}

// object reads a mapping with the keys of fields.
func (d *decoder) object(fields ...field) reader {
	return func(n *node) {
		if n.isNull() {
			return
		}
		if n.kind != mapping {
			d.mistake(n.at, "found %s, where a mapping with %s is wanted", n.what(), someOf(d.names(fields)))
			return
		}
		seen := map[string]position{}
		for _, p := range n.pairs {
			i := d.match(n, p.key, fields)
			if i < 0 {
				continue
			}
			if earlier, ok := seen[fields[i].name]; ok {
				// These are two spellings of one key; the parser has found a repeated spelling.
				d.tolerated(p.key.at, "the key %q stands twice, first in line %d, and the last one counts", shorten(p.key.value), earlier.line)
			}
			seen[fields[i].name] = p.key.at
			if p.value.implied {
				p.value.at = p.key.at
			}
			fields[i].read(p.value)
		}
	}
}

// someOf lists keys of a mapping, as many as fit in a sentence.
func someOf(names []string) string {
	if len(names) > 8 {
		return "keys such as " + strings.Join(names[:3], ", ")
	}
	return "the keys " + strings.Join(names, ", ")
}

// match returns the index of the field that key, of the mapping in, names, or -1.
func (d *decoder) match(in, key *node, fields []field) int {
	spelled := func(same func(a, b string) bool) int {
		return slices.IndexFunc(fields, func(f field) bool {
			if d.json {
				return f.json != "" && same(f.json, key.value)
			}
			return same(f.name, key.value)
		})
	}
	if i := spelled(func(a, b string) bool { return a == b }); i >= 0 {
		return i
	}
	// encoding/json, with which the peer reads JSON, folds case; the peer's YAML reader does not.
	if d.json {
		if i := spelled(strings.EqualFold); i >= 0 {
			d.tolerated(key.at, "the key %q is spelled %q", shorten(key.value), fields[i].json)
			return i
		}
	}
	known := d.names(fields)
	hint := suggest.DidYouMean(key.value, known)
	if meant := suggest.Closest(key.value, known); meant != "" {
		// Key paths have YAML's names.
		d.tell(in, fields[slices.IndexFunc(fields, func(f field) bool { return meant == f.name || d.json && meant == f.json })].name)
	}
	if hint == "" && len(known) <= 8 {
		hint = "; the keys here are " + strings.Join(known, ", ")
	}
	d.tolerated(key.at, "unknown key %q%s", shorten(key.value), hint)
	return -1
}

func (d *decoder) names(fields []field) []string {
	var names []string
	for _, f := range fields {
		switch {
		case !d.json:
			names = append(names, f.name)
		case f.json != "":
			names = append(names, f.json)
		}
	}
	return names
}

// entries reads a mapping with keys of the author's choice.
func (d *decoder) entries(each func(p pair)) reader {
	return func(n *node) {
		if n.isNull() {
			return
		}
		if n.kind != mapping {
			d.mistake(n.at, "found %s, where a mapping is wanted", n.what())
			return
		}
		for _, p := range n.pairs {
			if p.value.implied {
				p.value.at = p.key.at
			}
			each(p)
		}
	}
}

// list reads a list.
func (d *decoder) list(each func(i int, n *node)) reader {
	return func(n *node) {
		if n.isNull() {
			return
		}
		if n.kind != sequence {
			d.mistake(n.at, "found %s, where a list is wanted: one entry is a list too, written in brackets", n.what())
			return
		}
		for i, item := range n.items {
			each(i, item)
		}
	}
}

// text reads a string. Null is the empty string, as in the peer.
func (d *decoder) text(into *string) reader {
	return func(n *node) {
		switch {
		case n.kind != scalar:
			d.mistake(n.at, "found %s, where text is wanted", n.what())
			return
		case n.isNull():
			*into = ""
			return
		}
		switch n.tag {
		case tagString:
		case tagInt, tagFloat, tagBool, tagTimestamp:
			// The peer's YAML reader uses the text as written; encoding/json does not.
			if d.json || !d.plain {
				d.mistake(n.at, "found %s, where text is wanted: write it in quotes", n.what())
				return
			}
			d.warn(n.at, "found %s, where text is wanted: it is taken as it is written here; write it in quotes", n.what())
		default:
			d.mistake(n.at, "found %s, where text is wanted", n.what())
			return
		}
		*into = n.value
	}
}

// flag reads a truth value. Null is false.
func (d *decoder) flag(into *bool) reader {
	return func(n *node) {
		switch {
		case n.isNull():
			*into = false
		case n.kind == scalar && n.tag == tagBool:
			*into = strings.EqualFold(n.value, "true")
		case n.kind == scalar && !d.json && slices.Contains([]string{"y", "Y", "yes", "Yes", "YES", "on", "On", "ON"}, n.value):
			d.tolerated(n.at, "found %q, where true or false is wanted", n.value)
			*into = true
		case n.kind == scalar && !d.json && slices.Contains([]string{"n", "N", "no", "No", "NO", "off", "Off", "OFF"}, n.value):
			d.tolerated(n.at, "found %q, where true or false is wanted", n.value)
			*into = false
		default:
			d.mistake(n.at, "found %s, where true or false is wanted", n.what())
		}
	}
}

// texts reads a list of strings, none of them empty.
func (d *decoder) texts(into *[]string) reader {
	return d.list(func(_ int, n *node) {
		var s string
		before := len(d.mistakes)
		d.text(&s)(n)
		if s == "" && len(d.mistakes) == before {
			d.mistake(n.at, "an entry of this list is empty")
		}
		*into = append(*into, s)
	})
}

// time reads a time in the format of RFC 3339. It refuses fractions of a second, because
// certificates have none.
func (d *decoder) time(into *time.Time) reader {
	return func(n *node) {
		if n.isNull() {
			return
		}
		t, err := time.Parse(time.RFC3339, strings.TrimSpace(n.value))
		if n.kind != scalar || err != nil || t.Nanosecond() != 0 {
			d.mistake(n.at, "found %s, where a time with its zone and whole seconds is wanted, such as 2026-11-08T00:00:00Z", n.what())
			return
		}
		*into = t.UTC()
	}
}

// textMap reads a mapping from any key to a string.
func (d *decoder) textMap(into *map[string]string) reader {
	return func(n *node) {
		*into = map[string]string{}
		d.entries(func(p pair) {
			var s string
			d.text(&s)(p.value)
			(*into)[p.key.value] = s
		})(n)
	}
}

// raw reads a mapping as a JSON object, with its numbers as they are written.
func (d *decoder) raw(into *json.RawMessage) reader {
	return func(n *node) {
		if n.kind != mapping {
			d.mistake(n.at, "found %s, where a mapping is wanted", n.what())
			return
		}
		*into = d.appendJSON(nil, n)
	}
}

// appendJSON appends the JSON form of n to b.
func (d *decoder) appendJSON(b []byte, n *node) []byte {
	switch n.kind {
	case mapping:
		b = append(b, '{')
		for i, p := range n.pairs {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(quoteJSON(b, p.key.value), ':')
			b = d.appendJSON(b, p.value)
		}
		return append(b, '}')
	case sequence:
		b = append(b, '[')
		for i, item := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = d.appendJSON(b, item)
		}
		return append(b, ']')
	}
	switch n.tag {
	case tagString, tagTimestamp:
		return quoteJSON(b, n.value)
	case tagNull:
		return append(b, "null"...)
	case tagBool:
		return append(b, strings.ToLower(n.value)...)
	case tagInt, tagFloat:
		if json.Valid([]byte(n.value)) {
			return append(b, n.value...)
		}
	}
	d.mistake(n.at, "found %s, which JSON cannot say: write it as JSON does, or in quotes", n.what())
	return append(b, "null"...)
}

func quoteJSON(b []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // a string always has a JSON form
	return append(b, quoted...)
}
