// SPDX-License-Identifier: Apache-2.0

// Package config reads mayfly's files. They are the server configuration (LoadServer), the issuer
// configuration (LoadIssuers), the CA set (LoadCASet), and the plan of a ceremony (LoadCeremony).
// The peer's identity file, unchanged, is a valid issuer configuration.
//
// The structs are the manual: each is declared beside the code that uses it, and its fields state
// their meaning, default, range and effects. All files are read strictly. An unknown key, a repeated
// key or a value of the wrong kind is a mistake. Every mistake of a file is reported at once, as
// FILE:LINE:COLUMN and one sentence. Constructors elsewhere report mistakes as key paths; WithPlaces
// maps each to its place in the file.
//
// Only cmd, app and ca/set may import it, so that configuration stays there. It opens only the file
// that the caller names, and dials nothing.
package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// File is a configuration file as it was read. It knows the place of each of its keys.
type File struct {
	name   string
	digest [sha256.Size]byte
	// places has, by key path, the place of each key that the file sets, and zero for one that a variable sets.
	places map[string]position
	// named has the names of the environment variables by their key.
	named map[string]string
}

// Name returns the file's name as the caller gave it to the loader.
func (f *File) Name() string { return f.name }

// Digest returns the start of the content's SHA-256, in hex, so that operators can compare
// replicas.
func (f *File) Digest() string { return hex.EncodeToString(f.digest[:8]) }

// Sets reports whether the file or a variable sets a key, given as its path.
func (f *File) Sets(path ...string) bool {
	_, ok := f.places[joined(path)]
	return ok
}

// joined returns a key path as a key of a map.
func joined(path []string) string { return strings.Join(path, "\x00") }

// WithPlaces maps every keypath error in err, which may be joined with errors.Join, to its place in
// the file, or to the environment variable that has set the key. It returns them as Mistakes; nil
// for nil. Paths begin at the file's root and use YAML's keys, as in ["ct", "logs", "0", "url"]. If
// the file lacks the end of the path, the place is the nearest parent's. An error without a path
// applies to the file as a whole.
func (f *File) WithPlaces(err error) error {
	var mistakes Mistakes
	for _, e := range keypath.All(err) {
		m := Mistake{File: strings.Join(e.Path, ".")} // of a value that no file has
		if f != nil && len(e.Path) > 0 {
			m = f.locate(e.Path)
		} else if f != nil {
			m.File = f.name
		}
		m.path, m.Text = joined(e.Path), e.Err.Error()
		mistakes = append(mistakes, m)
	}
	return mistakes.asError()
}

// locate returns the place of a path. For a scalar, it is that of the value, and otherwise that of
// the key.
func (f *File) locate(path []string) Mistake {
	for n := len(path); n > 0; n-- {
		if at, ok := f.places[joined(path[:n])]; ok && at == (position{}) {
			return Mistake{File: f.named[strings.Join(path[:n], ".")]}
		} else if ok {
			return f.at(at)
		}
	}
	return f.at(f.places[""])
}

// Mistake is one mistake of a file, and its place.
type Mistake struct {
	// File is the file's name as the caller gave it to the loader; for a mistake in an environment
	// variable, the variable's name.
	File string
	// Line and Column count from 1, Column in characters; both are 0 if the mistake has no line.
	Line, Column int
	// Text is one sentence that states what was found and what was expected.
	Text string
	// path is joined.
	path string
}

// Path returns the keys that lead to the value, as in YAML, with the index of an item of a list; none
// for a mistake of form.
func (m Mistake) Path() []string {
	if m.path == "" {
		return []string{}
	}
	return strings.Split(m.path, "\x00")
}

// Error returns FILE:LINE:COLUMN: and the sentence, the form that editors and terminals link.
func (m Mistake) Error() string {
	if m.Line == 0 {
		return m.File + ": " + m.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", m.File, m.Line, m.Column, m.Text)
}

// Mistakes are all mistakes of a file, in the order of the file. The loaders and WithPlaces return it
// as their error; errors.As finds it.
type Mistakes []Mistake

// Error returns one mistake per line.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i := range m {
		lines[i] = m[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the mistakes one by one.
func (m Mistakes) Unwrap() []error {
	errs := make([]error, len(m))
	for i := range m {
		errs[i] = m[i]
	}
	return errs
}

// asError returns nil for no mistakes, so that the error is nil.
func (m Mistakes) asError() error {
	if len(m) == 0 {
		return nil
	}
	return m
}

// maxMistakes is the number of a file's mistakes that are reported. A file with more is probably of
// another kind than its author assumes.
const maxMistakes = 100

// inOrder returns mistakes in the order of the file.
func (f *File) inOrder(list Mistakes) Mistakes {
	slices.SortStableFunc(list, func(a, b Mistake) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	list = slices.CompactFunc(list, func(a, b Mistake) bool { return a.Error() == b.Error() }) // two constructors may find the same mistake
	if more := len(list) - maxMistakes; more > 0 {
		return append(list[:maxMistakes:maxMistakes], Mistake{File: f.name, Text: fmt.Sprintf("and %d more", more)})
	}
	return list
}

func (f *File) at(p position) Mistake {
	return Mistake{File: f.name, Line: p.line, Column: p.column}
}

func (m Mistake) with(path []string, format string, args ...any) Mistake {
	m.path, m.Text = joined(path), fmt.Sprintf(format, args...)
	return m
}

// mistake records a fault that makes the file unusable. path is nil for one of form.
func (d *decoder) mistake(at position, path []string, format string, args ...any) {
	d.mistakes = append(d.mistakes, d.at(at).with(path, format, args...))
}

// tolerated records a fault that the peer accepts silently: a mistake, or under compat a warning.
func (d *decoder) tolerated(at position, path []string, format string, args ...any) {
	if d.compat {
		d.warnings = append(d.warnings, d.at(at).with(path, format, args...))
	} else {
		d.mistake(at, path, format, args...)
	}
}

// mismatch records that the value at path is not of the expected kind.
func (d *decoder) mismatch(n *node, path []string, format string, args ...any) {
	d.wrongAt[joined(path)] = true
	d.mistake(n.at, path, format, args...)
}

// wrong records a mistake at a path, unless it is the consequence of another.
func (d *decoder) wrong(path []string, format string, args ...any) {
	if !d.isEcho(path) {
		d.mistakes = append(d.mistakes, d.locate(path).with(path, format, args...))
		d.wrongAt[joined(path)] = false
	}
}

// isEcho reports whether a mistake at path is the consequence of a recorded one.
func (d *decoder) isEcho(path []string) bool {
	_, echo := d.wrongAt[joined(path)]
	for n := 0; n < len(path) && !echo; n++ {
		echo = d.wrongAt[joined(path[:n])]
	}
	return echo
}

// caution records a warning at a path, unless it is the consequence of a mistake.
func (d *decoder) caution(path []string, format string, args ...any) {
	if !d.isEcho(path) {
		d.warnings = append(d.warnings, d.locate(path).with(path, format, args...))
	}
}

// peers records a fault at a path that the peer accepts silently.
func (d *decoder) peers(path []string, format string, args ...any) {
	if d.compat {
		d.caution(path, format, args...)
	} else {
		d.wrong(path, format, args...)
	}
}

// add records the keypath errors of a constructor, and its warnings.
func (d *decoder) add(err error, warnings []error) {
	for _, e := range keypath.All(err) {
		if !d.isEcho(e.Path) {
			d.mistakes = append(d.mistakes, d.WithPlaces(e).(Mistakes)...)
		}
	}
	for _, warning := range warnings {
		d.warnings = append(d.warnings, d.WithPlaces(warning).(Mistakes)...)
	}
}

// readFile returns the content of a file of at most maxFileSize bytes.
func readFile(name string) ([]byte, error) {
	content, err := files.Read(name, maxFileSize)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	return content, nil
}

// loaded is parse for a file that has not been read. Its error may also state why the file is
// unreadable.
func loaded[T any](path string, parse func(name string, content []byte) (*T, []error, error)) (*T, []error, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	return parse(path, content)
}

// IsServer reports whether the file called path is a server configuration. If not, the caller reads
// it as an issuer file. The two have no key in common, and both loaders report a file that is
// unreadable.
func IsServer(path string) (bool, error) {
	content, err := readFile(path)
	if err != nil {
		return false, err
	}
	d := newDecoder(path)
	root := d.tree(content, true)
	return root != nil && slices.ContainsFunc(root.pairs, func(p pair) bool {
		return slices.Contains([]string{"listen", "issuers", "ca", "ct"}, p.key.value)
	}), nil
}
