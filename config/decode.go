// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/suggest"
)

// decoder fills structs from nodes, by the tags of their fields:
//
//	key:"issuer-url"   the key in YAML; in JSON it is the field's name. Fields without it are not keys
//	default:"10m"      the value without the key, as it would be written
//	kind:"path"        a file name, relative to the file's folder
//	kind:"hex"         bytes in hexadecimal digits
//	kind:"address"     host:port, for the manual
//	kind:"secret"      text that no mistake shows
//	kind:"extension"   a mapping with keys of extensions, or in JSON their names
//	oneof:"json text"  the permitted values
//	min:"1s" max:"1h"  the range of a number or a duration
//	required:"it …"    the key must be present; the sentence states its purpose
//	nonempty:"…"       the list must not be empty; the text states what an empty list would mean
//
// It never stops at a mistake: it records the mistake and continues, so that one reading reports
// every mistake. check.go checks the last four.
type decoder struct {
	*report
	// json states that keys are spelled as in JSON.
	json bool
	// plain states that a number, a truth value or a date is accepted where text is required: the
	// peer reads it as it is written.
	plain bool
	// dir is the directory to which paths are relative.
	dir string
}

// field is a key of a mapping.
type field struct {
	yaml  string // as spelled in YAML, and in every key path
	json  string // as spelled in JSON; "" if the key does not exist there
	tag   reflect.StructTag
	index []int
}

// fields returns the keys of a struct, with those of structs in it whose key is "".
func (d *decoder) fields(t reflect.Type) (fields []field) {
	for i := range t.NumField() {
		f := t.Field(i)
		switch key, ok := f.Tag.Lookup("key"); {
		case !ok:
		case key == "":
			for _, inner := range d.fields(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				fields = append(fields, inner)
			}
		default:
			fields = append(fields, field{key, f.Name, f.Tag, f.Index})
		}
	}
	return fields
}

// object reads a mapping into a struct.
func (d *decoder) object(n *node, into reflect.Value) {
	fields := d.fields(into.Type())
	d.keys(n, fields, func(i int, n *node) { d.value(n, into.FieldByIndex(fields[i].index), fields[i].tag) })
}

// keys reads a mapping with the keys of fields; read gets the index of each.
func (d *decoder) keys(n *node, fields []field, read func(i int, n *node)) {
	if n.isNull() {
		return
	}
	if n.kind != mapping {
		d.mistake(n.at, "found %s, expected a mapping with %s", n.what(), someOf(d.names(fields)))
		return
	}
	seen := map[string]position{}
	for _, p := range n.pairs {
		i := d.match(n, p.key, fields)
		if i < 0 {
			continue
		}
		if earlier, ok := seen[fields[i].yaml]; ok {
			// These are two spellings of one key; the parser has found a repeated spelling.
			d.tolerated(p.key.at, "the key %q is repeated, first in line %d, and the last one counts", shorten(p.key.value), earlier.line)
		}
		seen[fields[i].yaml] = p.key.at
		if p.value.implied {
			p.value.at = p.key.at
		}
		read(i, p.value)
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
			return same(f.yaml, key.value)
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
	if meant := suggest.Closest(key.value, known); meant != "" && !d.compat {
		// Under compat the unknown key is only a warning, and the missing one must be reported.
		// Key paths have YAML's names.
		d.noteMissing(in, fields[slices.IndexFunc(fields, func(f field) bool { return meant == f.yaml || d.json && meant == f.json })].yaml)
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
		if name := d.spell(f); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// spell returns a key as this file spells it.
func (d *decoder) spell(f field) string {
	if d.json {
		return f.json
	}
	return f.yaml
}

// value reads a value into v, whose type decides its form. A null leaves the default.
func (d *decoder) value(n *node, v reflect.Value, tag reflect.StructTag) {
	switch into := v.Addr().Interface().(type) {
	case *bool:
		d.flag(n, into)
		return
	case *json.RawMessage:
		d.raw(n, into)
		return
	case *string, *[]byte, *int, *uint64, *time.Duration, *time.Time, *Secret, *netip.Prefix:
		d.scalar(n, v, tag)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.object(n, v)
	case reflect.Pointer:
		if n.isNull() {
			return
		}
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
			setDefaults(v.Elem())
		}
		d.object(n, v.Elem())
	case reflect.Slice:
		d.list(n, v, tag)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		d.entries(n, func(p pair) {
			item := reflect.New(v.Type().Elem()).Elem()
			d.value(p.value, item, "")
			name := p.key.value
			if d.json && tag.Get("kind") == "extension" {
				name = extensionKey(name)
			}
			v.SetMapIndex(reflect.ValueOf(name), item)
		})
	default:
		panic("config: a key of type " + v.Type().String()) // a fault of a struct, which every test finds
	}
}

// list reads a list. An entry that has no keys must not be empty. Of a repeated key, the last list
// counts.
func (d *decoder) list(n *node, v reflect.Value, tag reflect.StructTag) {
	v.SetZero()
	if n.isNull() || n.kind == sequence && len(n.items) == 0 {
		if otherwise := tag.Get("nonempty"); otherwise != "" {
			d.mistake(n.at, "this list is empty, and so %s; fill it, or remove the key", otherwise)
		}
		return
	}
	if n.kind != sequence {
		d.mistake(n.at, "found %s, expected a list: one entry is a list too, written in brackets", n.what())
		return
	}
	for _, item := range n.items {
		before := len(d.mistakes)
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		last := v.Index(v.Len() - 1)
		setDefaults(last)
		d.value(item, last, "")
		if isStruct := last.Kind() == reflect.Struct && len(d.fields(last.Type())) > 0; !isStruct && last.IsZero() && len(d.mistakes) == before {
			d.mistake(item.at, "an entry of this list is empty")
		}
	}
}

// extensionKey returns the key in YAML of the extension with the name given. A file never sets issuer
// and subject.
func extensionKey(name string) string {
	extension, ok := certs.ExtensionByName(name)
	switch {
	case !ok && name != "Subject":
		return name
	case extension.Key == "":
		return "subject"
	default:
		return extension.Key
	}
}

// entries reads a mapping with keys of the author's choice.
func (d *decoder) entries(n *node, each func(p pair)) {
	if n.isNull() {
		return
	}
	if n.kind != mapping {
		d.mistake(n.at, "found %s, expected a mapping", n.what())
		return
	}
	for _, p := range n.pairs {
		if p.value.implied {
			p.value.at = p.key.at
		}
		each(p)
	}
}

// raw reads a mapping as a JSON object, with its numbers as they are written.
func (d *decoder) raw(n *node, into *json.RawMessage) {
	if n.kind != mapping {
		d.mistake(n.at, "found %s, expected a mapping", n.what())
		return
	}
	*into = d.appendJSON(nil, n)
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
		if value, ok := n.truth(); ok {
			return strconv.AppendBool(b, value)
		}
	case tagInt, tagFloat:
		if json.Valid([]byte(n.value)) {
			return append(b, n.value...)
		}
	}
	d.mistake(n.at, "found %s, which JSON does not have: write it as JSON does, or in quotes", n.what())
	return append(b, "null"...)
}

func quoteJSON(b []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // a string always has a JSON form
	return append(b, quoted...)
}
