// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/suggest"
)

// File is a configuration file as it was read. It knows the place of each of its keys.
type File struct {
	name string
	json bool
	root *node
	// digest is the SHA-256 of the content.
	digest [sha256.Size]byte
}

// Digest returns the start of the content's SHA-256, in hex, so that operators can compare
// replicas.
func (f *File) Digest() string { return hex.EncodeToString(f.digest[:8]) }

// Name returns the file's name as the caller gave it to the loader.
func (f *File) Name() string { return f.name }

// JSON reports whether the file was read as JSON, in which keys are written in CamelCase.
func (f *File) JSON() bool { return f.json }

// Locate returns the line and the column of a path of keys, both from 1. List entries are found by
// their index, as in ["ct", "logs", "0", "url"]. Keys have their YAML form; in a JSON file Locate
// finds their CamelCase equals.
//
// For a scalar, the place is that of the value, and otherwise that of the key. If the file lacks
// the end of the path, it is the nearest parent's place.
func (f *File) Locate(path []string) (line, column int) {
	at, _, _ := f.walk(path)
	return at.line, at.column
}

// walk returns the place of path, and the value there; or those of the innermost value on the path,
// and the key that is missing in it.
func (f *File) walk(path []string) (at position, n *node, missing string) {
	at, n = f.root.at, f.root
	for _, key := range path {
		switch n.kind {
		case mapping:
			p, ok := f.find(n, key)
			if !ok {
				return at, n, key
			}
			at, n = p.place(), p.value
		case sequence:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(n.items) {
				return at, n, key
			}
			at, n = n.items[i].at, n.items[i]
		default:
			return at, n, key
		}
	}
	return at, n, ""
}

// place returns the place that mistakes about the pair show: for a scalar that of the value, for a
// mapping or a list that of its key, because the contents have places of their own.
func (p pair) place() position {
	if p.value.kind == scalar && !p.value.implied {
		return p.value.at
	}
	return p.key.at
}

// find returns the pair of a key by its YAML name.
func (f *File) find(n *node, key string) (pair, bool) {
	p, ok := n.lookup(key)
	if ok || !f.json {
		return p, ok
	}
	for _, p := range n.pairs {
		if strings.ToLower(p.key.value) == suggest.Fold(key) {
			return p, true
		}
	}
	return pair{}, false
}

// Mistakes maps every keypath error in err, which may be joined with errors.Join, to its place in
// the file. An error without a path applies to the file as a whole.
func (f *File) Mistakes(err error) Mistakes {
	var mistakes Mistakes
	for _, e := range keypath.All(err) {
		if f == nil { // for a value that no file has
			mistakes = append(mistakes, Mistake{File: strings.Join(e.Path, "."), Text: e.Err.Error()})
			continue
		}
		m := Mistake{File: f.name, Text: e.Err.Error()}
		if len(e.Path) > 0 {
			m.Line, m.Column = f.Locate(e.Path)
		}
		mistakes = append(mistakes, m)
	}
	return mistakes
}

// withoutEchoes is find(err) without consequences of a mistake in r: one about the same value, and
// one about a key that is missing because it is misspelt.
func (f *File) withoutEchoes(err error, r *report, find func(error) Mistakes) Mistakes {
	var mistakes Mistakes
	for _, e := range keypath.All(err) {
		m := find(e)[0]
		_, n, missing := f.walk(e.Path)
		echo := missing != "" && r.isReported(n, missing)
		if missing == "" || n.kind == scalar {
			echo = slices.ContainsFunc(r.mistakes, func(k Mistake) bool { return k.Line == n.at.line && k.Column == n.at.column })
		}
		if !echo {
			mistakes = append(mistakes, m)
		}
	}
	return mistakes
}

// readFile returns the content of a file of at most maxFileSize bytes.
func readFile(name string) ([]byte, error) {
	content, err := files.Read(name, maxFileSize)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	return content, nil
}

// format is the syntax of a file.
type format uint8

const (
	yamlOnly   format = iota // whatever it begins with
	yamlOrJSON               // JSON if its first character is a brace
)

// parse reads content into a tree. If it returns false, the reason is in r.
func parse(r *report, content []byte, form format) (*File, bool) {
	if len(content) > maxFileSize {
		r.mistake(position{}, "the file is larger than 1 MiB")
		return nil, false
	}
	digest := sha256.Sum256(content)
	content = bytes.TrimPrefix(content, []byte("\ufeff"))
	if i := firstNotText(content); i >= 0 {
		r.mistake(positionAt(content, i), "the file is not text: byte 0x%02x is no UTF-8, or a control character", content[i])
		return nil, false
	}
	f := &File{name: r.file, digest: digest}
	if form == yamlOrJSON {
		f.json = bytes.HasPrefix(bytes.TrimLeft(content, " \t\r\n"), []byte("{"))
	}
	if f.json {
		f.root = parseJSON(r, content)
	} else {
		f.root = parseYAML(r, content)
	}
	switch {
	case f.root == nil:
		return nil, false
	case f.root.isNull():
		r.mistake(position{1, 1}, "the file is empty")
		return nil, false
	case f.root.kind != mapping:
		r.mistake(f.root.at, "found %s, expected the file's keys", f.root.what())
		return nil, false
	}
	return f, true
}

// firstNotText returns the index of the first byte that is not valid UTF-8, or is a control
// character that YAML and JSON do not permit unescaped; or -1.
func firstNotText(content []byte) int {
	for i := 0; i < len(content); {
		c := content[i]
		if c < 0x20 && c != '\t' && c != '\n' && c != '\r' || c == 0x7f {
			return i
		}
		r, size := utf8.DecodeRune(content[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// IsServer reports whether the file called path is a server configuration. If not, the caller reads
// it as an issuer file. The two have no key in common, and both loaders report a file that is
// unreadable.
func IsServer(path string) (bool, error) {
	content, err := readFile(path)
	if err != nil {
		return false, err
	}
	file, ok := parse(&report{file: path}, content, yamlOrJSON)
	if !ok {
		return false, nil
	}
	for _, key := range []string{"listen", "issuers", "ca", "ct"} {
		if _, ok := file.root.lookup(key); ok {
			return true, nil
		}
	}
	return false, nil
}
