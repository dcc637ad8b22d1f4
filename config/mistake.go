// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Mistake is one mistake of a file, and its place.
type Mistake struct {
	// File is the file's name as the caller gave it to the loader; for a mistake in an environment
	// variable, the variable's name.
	File string
	// Line counts from 1; it is 0 if the mistake has no line.
	Line int
	// Column counts characters from 1; it is 0 if Line is.
	Column int
	// Text is one sentence that states what was found and what was expected.
	Text string
}

// Error returns FILE:LINE:COLUMN: and the sentence, the form that editors and terminals link.
func (m Mistake) Error() string {
	if m.Line == 0 {
		return m.File + ": " + m.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", m.File, m.Line, m.Column, m.Text)
}

// Mistakes are all mistakes of a file, in the order of the file. Both loaders and WithPlaces return it
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

// position is a place in a file, both numbers from 1.
type position struct{ line, column int }

// report collects the mistakes of one file.
type report struct {
	file string
	// compat turns what the peer tolerates into warnings.
	compat   bool
	mistakes Mistakes
	warnings Mistakes
	// missing has, by mapping, the missing keys that have been reported, as missing or as misspelt.
	missing map[*node][]string
}

// noteMissing notes that a mistake about a key that the mapping n lacks has been recorded.
func (r *report) noteMissing(n *node, key string) {
	if r.missing == nil {
		r.missing = make(map[*node][]string)
	}
	r.missing[n] = append(r.missing[n], key)
}

// isReported reports whether noteMissing has noted a key that n lacks.
func (r *report) isReported(n *node, key string) bool { return slices.Contains(r.missing[n], key) }

// mistake records a fault that makes the file unusable.
func (r *report) mistake(at position, format string, args ...any) {
	r.mistakes = append(r.mistakes, r.at(at, format, args...))
}

// warn records a warning, which the operator may ignore.
func (r *report) warn(at position, format string, args ...any) {
	r.warnings = append(r.warnings, r.at(at, format, args...))
}

// tolerated records a fault that the peer accepts silently: a mistake, or under compat a warning.
func (r *report) tolerated(at position, format string, args ...any) {
	if r.compat {
		r.warn(at, format, args...)
		return
	}
	r.mistake(at, format, args...)
}

func (r *report) at(at position, format string, args ...any) Mistake {
	return Mistake{File: r.file, Line: at.line, Column: at.column, Text: fmt.Sprintf(format, args...)}
}

// maxMistakes is the number of a file's mistakes that are reported. A file with more is probably of
// another kind than its author assumes.
const maxMistakes = 100

// result returns warnings and mistakes in the order of the file.
func (r *report) result() (warnings []Mistake, err error) {
	return r.inOrder(r.warnings), r.inOrder(r.mistakes).asError()
}

func (r *report) inOrder(list Mistakes) Mistakes {
	slices.SortStableFunc(list, func(a, b Mistake) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	list = slices.Compact(list) // two constructors may find the same mistake
	if more := len(list) - maxMistakes; more > 0 {
		return append(list[:maxMistakes:maxMistakes], Mistake{File: r.file, Text: fmt.Sprintf("and %d more", more)})
	}
	return list
}
