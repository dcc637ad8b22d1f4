// SPDX-License-Identifier: Apache-2.0

// Package keypath is the error that every constructor returns for a wrong setting: the path
// of keys that leads to it in its configuration file. Package config maps a path to its
// line and column, so that no constructor needs to know about files.
package keypath

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Error is a mistake at a path of keys, as in ["oidc-issuers", "https://a.example", "type"].
// Keys are not joined with dots in Path, since issuer URLs and claim names are keys and
// hold dots themselves.
type Error struct {
	Path []string
	Err  error
}

// Errorf returns an *Error at path whose text is formatted from format and args.
func Errorf(path []string, format string, args ...any) error {
	return &Error{Path: slices.Clone(path), Err: fmt.Errorf(format, args...)}
}

// Error returns the path and the sentence.
func (e *Error) Error() string { return strings.Join(e.Path, ": ") + ": " + e.Err.Error() }

// Unwrap returns the sentence without the path.
func (e *Error) Unwrap() error { return e.Err }

// Split returns the errors that errors.Join has combined; none for nil.
func Split(err error) (errs []error) {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	for _, e := range joined.Unwrap() {
		errs = append(errs, Split(e)...)
	}
	return errs
}

// Prefix puts prefix before the path of every *Error in err, which may be joined with
// errors.Join; any other error gets the prefix as its path.
func Prefix(err error, prefix ...string) error {
	var errs []error
	for _, e := range All(err) {
		errs = append(errs, &Error{Path: slices.Concat(prefix, e.Path), Err: e.Err})
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// All returns every *Error in err, which may be joined with errors.Join, in order. It returns
// an error without a path with an empty one.
func All(err error) (all []*Error) {
	for _, err := range Split(err) {
		e := &Error{Err: err}
		errors.As(err, &e)
		all = append(all, e)
	}
	return all
}

// Sentences returns the errors in err without their paths, each sentence once.
func Sentences(err error) error {
	var errs []error
	for _, e := range All(err) {
		if !slices.ContainsFunc(errs, func(other error) bool { return other.Error() == e.Err.Error() }) {
			errs = append(errs, e.Err)
		}
	}
	return errors.Join(errs...)
}
