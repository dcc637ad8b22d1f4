// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"reflect"
	"strings"
)

// LoadServer reads the server configuration from the file called path, and the MAYFLY_ variables of
// environ, which has the form of os.Environ.
//
// An error is Mistakes, with every mistake of the file and the variables; or it states why the file
// is unreadable. LoadServer returns warnings in both cases; the caller should log them at start.
func LoadServer(path string, environ []string) (*Server, []Mistake, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	return ParseServer(path, content, environ)
}

// ParseServer is LoadServer for a file that has been read already. Relative paths in it are
// relative to the directory of name; mistakes give name as the file.
func ParseServer(name string, content []byte, environ []string) (*Server, []Mistake, error) {
	r := &report{file: name}
	s := &Server{CA: CA{File: &CAFile{}}}
	scalars := newScalars(r, reflect.ValueOf(s).Elem(), environ)
	file, ok := parse(r, content, yamlOnly)
	if !ok {
		warnings, err := r.result()
		return nil, warnings, err
	}
	s.file = file
	d := &decoder{report: r, dir: filepath.Dir(name)}
	scalars.defaults()
	d.object(file.root, reflect.ValueOf(s).Elem())
	s.env = scalars.variables()
	if _, written := s.find("ca.file"); !written && s.CA.File != nil && *s.CA.File == (CAFile{}) {
		s.CA.File = nil
	}
	c := &serverChecks{checks{decoder: d}, s}
	c.all()
	c.report(file, s.mistakes)
	warnings, err := r.result()
	if err != nil {
		return nil, warnings, err
	}
	return s, warnings, nil
}

// find returns the pair of a key of the file, given as its path joined with dots.
func (s *Server) find(key string) (pair, bool) {
	n := s.file.root
	var p pair
	for name := range strings.SplitSeq(key, ".") {
		if n.kind != mapping {
			return pair{}, false
		}
		found, ok := n.lookup(name)
		if !ok || found.value.isNull() {
			return pair{}, false
		}
		p, n = found, found.value
	}
	return p, true
}
