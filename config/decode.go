// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/suggest"
)

// decoder fills structs from nodes and variables, by the tags of their fields:
//
//	key:"issuer-url"   the key in YAML; in JSON it is the field's name. Fields without it are not keys;
//	                   the keys of a struct with key:"" are keys of the struct around it
//	default:"10m"      the value without the key, as it would be written
//	kind:"path"        a file name, relative to the file's folder
//	kind:"hex"         bytes in hexadecimal digits
//	kind:"address"     host:port, for the manual
//	kind:"secret"      text that no mistake shows
//	kind:"extension"   a mapping with keys of extensions, or in JSON their names
//	kind:"entries"     a mapping that is read into a list; the items get their key from their path
//	kind:"ignored"     a key of YAML whose value is not read
//	oneof:"json text"  the permitted values
//	min:"1s" max:"1h"  the range of a number or a duration
//	required:"it …"    the key must be present; the sentence states its purpose
//	nonempty:"…"       the list must not be empty; the text states what an empty list would mean
//
// A struct's method check, if it has one, makes the checks that need more. The decoder never stops at a mistake: it
// records the mistake and continues, so that one reading reports every mistake.
type decoder struct {
	*File
	// dir is the directory to which paths are relative.
	dir string
	// compat turns what the peer tolerates into warnings.
	compat bool
	// json states that keys are spelled as in JSON.
	json bool
	// plain states that a number, a truth value or a date is accepted where text is required: the
	// peer reads it as it is written.
	plain bool
	// variables has the values of environment variables by their key.
	variables *viper.Viper
	// fieldsOf has the keys of the structs that were read: a file may have thousands of one type.
	fieldsOf map[reflect.Type][]field

	mistakes, warnings Mistakes
	// wrongAt has the paths with a mistake. True: what is below has not been read. A mistake that is
	// found there later is a consequence.
	wrongAt map[string]bool
}

func newDecoder(name string) *decoder {
	return &decoder{
		dir: filepath.Dir(name), File: &File{name: name, places: map[string]position{"": {1, 1}}},
		fieldsOf: map[reflect.Type][]field{}, wrongAt: map[string]bool{},
	}
}

// read reads content into the struct that into points to.
func (d *decoder) read(content []byte, orJSON bool, into any) {
	if root := d.tree(content, orJSON); root != nil {
		d.places = make(map[string]position, len(content)/25) // about as many as a long issuer file has
		d.places[""] = root.at
		d.object(root, nil, reflect.ValueOf(into).Elem())
	}
}

// tree returns the tree of a file, which is a mapping; nil if there is none. With orJSON, a file whose
// first character is a brace is JSON.
func (d *decoder) tree(content []byte, orJSON bool) *node {
	if len(content) > maxFileSize {
		d.mistakes = append(d.mistakes, Mistake{File: d.name, Text: "the file is larger than 4 MiB"})
		return nil
	}
	d.digest = sha256.Sum256(content)
	content = bytes.TrimPrefix(content, []byte("\ufeff"))
	if i := firstNotText(content); i >= 0 {
		d.mistake(positionAt(content, i), nil, "the file is not text: byte 0x%02x is no UTF-8, or a control character", content[i])
		return nil
	}
	d.json = orJSON && bytes.HasPrefix(bytes.TrimLeft(content, " \t\r\n"), []byte("{"))
	switch root := d.parse(content); {
	case root == nil:
	case root.isNull():
		d.mistake(position{1, 1}, nil, "the file is empty")
	case root.kind != yaml.MappingNode:
		d.mistake(root.at, nil, "found %s, expected the file's keys", root.what())
	default:
		return root
	}
	return nil
}

// result returns doc, or nil beside an error that is Mistakes.
func result[T any](d *decoder, doc *T) (*T, []error, error) {
	if len(d.mistakes) > 0 {
		return nil, d.inOrder(d.warnings).Unwrap(), d.inOrder(d.mistakes)
	}
	return doc, d.inOrder(d.warnings).Unwrap(), nil
}

// field is a key of a mapping.
type field struct {
	yaml  string // as spelled in YAML, and in every key path
	name  string // as spelled in the file
	tag   reflect.StructTag
	index []int
	// kind and required are those of the tag, and ranged states that it has a range or choices.
	kind, required string
	ranged         bool
	// optional states that an absent key leaves the field as it is, unless a variable sets it.
	optional bool
}

// fields returns the keys of a struct, with those of structs in it whose key is "", for a file in
// JSON or YAML.
func fields(t reflect.Type, json bool) (all []field) {
	for i := range t.NumField() {
		f := t.Field(i)
		optional := f.Type.Kind() != reflect.Struct && f.Tag.Get("default")+f.Tag.Get("required") == ""
		ranged := f.Tag.Get("oneof")+f.Tag.Get("min")+f.Tag.Get("max") != ""
		switch key, ok := f.Tag.Lookup("key"); {
		case !ok, json && f.Tag.Get("kind") == "ignored":
		case key == "":
			for _, inner := range fields(f.Type, json) {
				inner.index = append([]int{i}, inner.index...)
				all = append(all, inner)
			}
		case json:
			all = append(all, field{key, f.Name, f.Tag, f.Index, f.Tag.Get("kind"), f.Tag.Get("required"), ranged, optional})
		default:
			all = append(all, field{key, key, f.Tag, f.Index, f.Tag.Get("kind"), f.Tag.Get("required"), ranged, optional})
		}
	}
	return all
}

// fields returns the keys of a struct in this file.
func (d *decoder) fields(t reflect.Type) []field {
	all, ok := d.fieldsOf[t]
	if !ok {
		all = fields(t, d.json)
		d.fieldsOf[t] = all
	}
	return all
}

func names(all []field) (names []string) {
	for _, f := range all {
		names = append(names, f.name)
	}
	return names
}

// value reads n, which is nil for an absent key and otherwise at the place given, into v, whose type
// decides its form.
func (d *decoder) value(n *node, place position, path []string, v reflect.Value, f field) {
	if n != nil {
		d.places[joined(path)] = place
	}
	raw, isRaw := v.Addr().Interface().(*json.RawMessage)
	switch {
	case f.kind == "ignored":
	case isRaw && n == nil:
	case isRaw && n.kind != yaml.MappingNode:
		d.mismatch(n, path, "found %s, expected a mapping", n.what())
	case isRaw:
		*raw, _ = json.Marshal(d.jsonOf(n)) // which always has a JSON form
	case formOf(v.Type()) != "":
		d.scalar(n, path, v, f)
	case v.Kind() == reflect.Struct:
		d.object(n, path, v)
	case v.Kind() == reflect.Pointer:
		if !n.isNull() || d.variablesBelow(path) {
			v.Set(reflect.New(v.Type().Elem()))
			d.object(n, path, v.Elem())
		}
	case v.Kind() == reflect.Slice && f.kind == "entries":
		d.entries(n, path, v)
	case v.Kind() == reflect.Slice:
		d.list(n, path, v, f.tag)
	case v.Kind() == reflect.Map && n != nil:
		v.Set(reflect.MakeMap(v.Type()))
		d.mapping(n, path, func(p pair) {
			name, item := p.key.value, reflect.New(v.Type().Elem()).Elem()
			if d.json && f.kind == "extension" {
				if name = d.extensionKey(p.key, path); name == "" {
					return
				}
			}
			d.value(p.value, p.place(), join(path, name), item, field{})
			v.SetMapIndex(reflect.ValueOf(name), item)
		})
	}
}

// object reads a mapping into a struct: n is nil or null for one without a key in the file.
func (d *decoder) object(n *node, path []string, v reflect.Value) {
	all := d.fields(v.Type())
	found := make([]pair, len(all))
	if !n.isNull() {
		if n.kind != yaml.MappingNode {
			d.mismatch(n, path, "found %s, expected a mapping with %s", n.what(), someOf(names(all)))
			return
		}
		for _, p := range n.pairs {
			i := d.match(p.key, path, all)
			if i < 0 {
				continue
			}
			if earlier := found[i].key; earlier != nil { // two spellings; parse has found a repeated one
				d.repeated(p.key, path, earlier.at)
			}
			found[i] = p
		}
	}
	for i, f := range all {
		if f.optional && found[i].value == nil && d.named == nil {
			continue
		}
		at, into := join(path, f.yaml), v.FieldByIndex(f.index)
		d.value(found[i].value, found[i].place(), at, into, f)
		if f.required != "" && into.IsZero() {
			d.wrong(at, "%s is missing: %s", f.name, f.required)
		}
	}
	if s, ok := v.Addr().Interface().(interface{ check(*decoder, []string) }); ok {
		s.check(d, path)
	}
}

func (d *decoder) repeated(key *node, path []string, first position) {
	d.tolerated(key.at, join(path, key.value), "the key %q is repeated, first in line %d, and the last one counts", shorten(key.value), first.line)
}

// someOf lists keys of a mapping, as many as fit in a sentence.
func someOf(names []string) string {
	if len(names) > 8 {
		return "keys such as " + strings.Join(names[:3], ", ")
	}
	return "the keys " + strings.Join(names, ", ")
}

// match returns the index of the field that key, of the mapping at path, names, or -1.
func (d *decoder) match(key *node, path []string, all []field) int {
	if i := slices.IndexFunc(all, func(f field) bool { return f.name == key.value }); i >= 0 {
		return i
	}
	known := names(all)
	// encoding/json, with which the peer reads JSON, folds case; the peer's YAML reader does not.
	if i := slices.IndexFunc(known, func(name string) bool { return strings.EqualFold(name, key.value) }); i >= 0 && d.json {
		d.tolerated(key.at, join(path, key.value), "the key %q is spelled %q", shorten(key.value), known[i])
		return i
	}
	hint := suggest.DidYouMean(key.value, known)
	if meant := slices.Index(known, suggest.Closest(key.value, known)); meant >= 0 && !d.compat {
		// The key that is meant is not missing too. Under compat, where the unknown key is only a
		// warning, its absence must be reported.
		d.wrongAt[joined(join(path, all[meant].yaml))] = true
	} else if hint == "" && len(known) <= 8 {
		hint = "; the keys here are " + strings.Join(known, ", ")
	}
	d.tolerated(key.at, join(path, key.value), "unknown key %q%s", shorten(key.value), hint)
	return -1
}

// spell returns a key as this file spells it.
func (d *decoder) spell(yaml, json string) string {
	if d.json {
		return json
	}
	return yaml
}

// list reads a list. An entry that has no keys must not be empty.
func (d *decoder) list(n *node, path []string, v reflect.Value, tag reflect.StructTag) {
	if n == nil {
		return
	}
	if n.isNull() || n.kind == yaml.SequenceNode && len(n.items) == 0 {
		if otherwise := tag.Get("nonempty"); otherwise != "" {
			d.mismatch(n, path, "this list is empty, and so %s; fill it, or remove the key", otherwise)
		}
		return
	}
	if n.kind != yaml.SequenceNode {
		d.mismatch(n, path, "found %s, expected a list: one entry is a list too, written in brackets", n.what())
		return
	}
	for i, item := range n.items {
		at := join(path, strconv.Itoa(i))
		v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
		last := v.Index(i)
		d.value(item, item.at, at, last, field{})
		if last.IsZero() && (formOf(last.Type()) != "" || last.Kind() != reflect.Struct) {
			d.wrong(at, "an entry of this list is empty")
		}
	}
}

// entries reads a mapping with keys of the author's choice into a list of structs.
func (d *decoder) entries(n *node, path []string, v reflect.Value) {
	keys := names(d.fields(v.Type().Elem()))
	isKey := func(p pair) bool { return slices.Contains(keys, p.key.value) }
	flat := -1 // without indentation, an entry is empty, and its keys look like entries
	if n != nil {
		flat = slices.IndexFunc(n.pairs, isKey)
		v.Grow(len(n.pairs))
	}
	if flat >= 0 {
		key := n.pairs[flat].key
		d.mistake(key.at, join(path, key.value), "%q is a key of an entry, found among issuer URLs: indent it and its like below the URL", key.value)
	}
	d.mapping(n, path, func(p pair) {
		if flat >= 0 && (isKey(p) || p.value.isNull()) {
			return
		}
		if p.value.isNull() {
			d.mistake(p.value.at, join(path, p.key.value), "the entry of %q is empty; it needs %s", shorten(p.key.value), strings.Join(keys[:2], ", "))
			return
		}
		entries := v.Len()
		v.SetLen(entries + 1)
		d.value(p.value, p.place(), join(path, p.key.value), v.Index(entries), field{})
		if p.value.kind != yaml.MappingNode {
			v.SetLen(entries)
		}
	})
}

// mapping reads a mapping with keys of the author's choice.
func (d *decoder) mapping(n *node, path []string, each func(p pair)) {
	if n.isNull() {
		return
	}
	if n.kind != yaml.MappingNode {
		d.mismatch(n, path, "found %s, expected a mapping", n.what())
		return
	}
	for _, p := range n.pairs {
		each(p)
	}
}

// extensionKey returns the key in YAML of the extension that a key of JSON names; "" for an unknown
// name. A file never sets issuer and subject.
func (d *decoder) extensionKey(key *node, path []string) string {
	var known []string
	for _, e := range certs.Table() {
		switch {
		case e.Name == key.value || key.value == "Subject":
			return cmp.Or(e.Key, "subject")
		case e.Key != "":
			known = append(known, e.Name)
		}
	}
	d.tolerated(key.at, join(path, key.value), "there is no extension %q%s", shorten(key.value), suggest.DidYouMeanOr(key.value, known, "the names are"))
	return ""
}

// join returns path with more keys.
func join(path []string, keys ...string) []string { return append(slices.Clip(path), keys...) }
