// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Changes returns the keys in which next differs from s, with both values, as in
// "log.level: info → debug". It conceals secrets.
func (s *Server) Changes(next *Server) []string {
	return changes(nil, reflect.ValueOf(*s), reflect.ValueOf(*next))
}

// changes compares two values of one type at path, down to the keys that hold one value or a list of them.
func changes(path []string, old, next reflect.Value) (list []string) {
	t := old.Type()
	switch {
	case reflect.DeepEqual(old.Interface(), next.Interface()):
		return nil
	case t.Kind() == reflect.Pointer:
		return changes(path, pointedTo(old), pointedTo(next))
	case t.Kind() == reflect.Struct && formOf(t) == "":
		for _, f := range fields(t, false) {
			list = append(list, changes(join(path, f.yaml), old.FieldByIndex(f.index), next.FieldByIndex(f.index))...)
		}
		return list
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && formOf(t.Elem()) == "":
		for i := range max(old.Len(), next.Len()) {
			list = append(list, changes(join(path, strconv.Itoa(i)), entryOf(old, i), entryOf(next, i))...)
		}
		return list
	default:
		return []string{fmt.Sprintf("%s: %s → %s", strings.Join(path, "."), shown(old), shown(next))}
	}
}

// pointedTo returns the value of a pointer; the zero value for nil.
func pointedTo(v reflect.Value) reflect.Value {
	if v.IsNil() {
		return reflect.Zero(v.Type().Elem())
	}
	return v.Elem()
}

// entryOf returns an entry of a list; the zero value behind its end.
func entryOf(list reflect.Value, i int) reflect.Value {
	if i < list.Len() {
		return list.Index(i)
	}
	return reflect.Zero(list.Type().Elem())
}

// shown returns a value as a line of the log shows it.
func shown(v reflect.Value) string {
	text := fmt.Sprint(v.Interface())
	switch value := v.Interface().(type) {
	case bool, int, time.Duration:
		return text
	case time.Time:
		text = value.Format(time.RFC3339)
	case []json.RawMessage:
		text = fmt.Sprintf("%s", value)
	}
	if v.IsZero() {
		return "none"
	}
	return shorten(text)
}
