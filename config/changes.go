// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Changes returns the keys with another value in next than in s, each with both, as in
// "log.level: info → debug". It conceals secrets.
func (s *Server) Changes(next *Server) (list []string) {
	old, now := map[string]any{}, map[string]any{}
	flatten(nil, reflect.ValueOf(*s), old)
	flatten(nil, reflect.ValueOf(*next), now)
	both := maps.Clone(old)
	maps.Copy(both, now)
	for _, key := range slices.Sorted(maps.Keys(both)) {
		if !reflect.DeepEqual(old[key], now[key]) {
			list = append(list, fmt.Sprintf("%s: %s → %s", key, shown(old[key]), shown(now[key])))
		}
	}
	return list
}

// flatten adds the value of each key at path and below. A key with an empty text or list is absent.
func flatten(path []string, v reflect.Value, into map[string]any) {
	t := v.Type()
	switch {
	case v.IsZero() && t.Kind() != reflect.Bool && t.Kind() != reflect.Int && t.Kind() != reflect.Int64:
	case t.Kind() == reflect.Pointer:
		flatten(path, v.Elem(), into)
	case t.Kind() == reflect.Struct && formOf(t) == "":
		for _, f := range fields(t, false) {
			flatten(join(path, f.yaml), v.FieldByIndex(f.index), into)
		}
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && formOf(t.Elem()) == "":
		for i := range v.Len() {
			flatten(join(path, strconv.Itoa(i)), v.Index(i), into)
		}
	default:
		into[strings.Join(path, ".")] = v.Interface()
	}
}

// shown returns a value as a line of the log shows it.
func shown(value any) string {
	switch value := value.(type) {
	case nil:
		return "none"
	case time.Time:
		return value.Format(time.RFC3339)
	case []json.RawMessage:
		return shorten(fmt.Sprintf("%s", value))
	default:
		return shorten(fmt.Sprint(value))
	}
}
