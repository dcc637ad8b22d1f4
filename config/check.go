// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/suggest"
)

// checks collects what is wrong with decoded values, as keypath errors. Their places in the file are
// found afterwards, and consequences of a mistake of the decoder are dropped.
type checks struct {
	*decoder
	errs, warns []error
}

// wrong reports a mistake at a key, given as its path.
func (c *checks) wrong(path []string, format string, args ...any) {
	c.errs = append(c.errs, keypath.Errorf(path, format, args...))
}

// caution reports a warning at a key.
func (c *checks) caution(path []string, format string, args ...any) {
	c.warns = append(c.warns, keypath.Errorf(path, format, args...))
}

// peers reports a fault that the peer tolerates: a mistake, or under compat a warning.
func (c *checks) peers(path []string, format string, args ...any) {
	if c.compat {
		c.caution(path, format, args...)
	} else {
		c.wrong(path, format, args...)
	}
}

// report adds what was found to the report of file; find maps it to places.
func (c *checks) report(file *File, find func(error) Mistakes) {
	c.mistakes = append(c.mistakes, file.withoutEchoes(errors.Join(c.errs...), c.decoder.report, find)...)
	c.warnings = append(c.warnings, find(errors.Join(c.warns...))...)
	for _, e := range keypath.All(errors.Join(c.errs...)) {
		if _, n, missing := file.walk(e.Path); missing != "" {
			c.noteMissing(n, missing)
		}
	}
}

// tags checks the values below v, at path, by the tags of their fields.
func (c *checks) tags(v reflect.Value, path []string) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			c.tags(v.Elem(), path)
		}
	case reflect.Slice:
		for i := range v.Len() {
			c.tags(v.Index(i), join(path, strconv.Itoa(i)))
		}
	case reflect.Map:
		for entry := v.MapRange(); entry.Next(); {
			c.tags(entry.Value(), join(path, entry.Key().String()))
		}
	case reflect.Struct:
		for _, f := range c.fields(v.Type()) {
			value, at := v.FieldByIndex(f.index), join(path, f.yaml)
			c.field(value, f, at)
			c.tags(value, at)
		}
	}
}

func (c *checks) field(v reflect.Value, f field, path []string) {
	if sentence := f.tag.Get("required"); sentence != "" && v.IsZero() {
		c.wrong(path, "%s is missing: %s", c.spell(f), sentence)
		return
	}
	if choices := strings.Fields(f.tag.Get("oneof")); len(choices) > 0 && !slices.Contains(choices, v.String()) {
		c.wrong(path, "found %q, expected one of %s%s", shorten(v.String()), strings.Join(choices, ", "), suggest.DidYouMean(v.String(), choices))
	}
	least, most := f.tag.Get("min"), f.tag.Get("max")
	switch value := v.Interface().(type) {
	case time.Duration:
		lower, _ := time.ParseDuration(least)
		upper, err := time.ParseDuration(most)
		if most != "" && err == nil && (value < lower || value > upper) {
			c.wrong(path, "found %s, expected %s to %s", value, least, most)
		}
	case int:
		if lower, err := strconv.Atoi(least); err == nil && value < lower {
			c.wrong(path, "found %d, expected a number from %d on", value, lower)
		}
	}
}

// join returns path with more keys.
func join(path []string, keys ...string) []string { return append(slices.Clip(path), keys...) }
