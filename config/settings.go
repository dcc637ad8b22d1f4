// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Setting is a key of the configuration in use, such as ct.logs.0.url.
type Setting struct {
	Key string `json:"key"`
	// Value is as YAML has it on one line, without secrets and what URLs can hold of them; "" for none.
	Value string `json:"value"`
	// Source is a file and its line, the name of an environment variable, or "default".
	Source string `json:"source"`
}

// Settings returns each key of the server configuration, in the order of its manual.
func (s *Server) Settings() []Setting { return s.settings(nil, reflect.ValueOf(*s)) }

// settings returns the key at a path, or those below it.
func (s *Server) settings(path []string, v reflect.Value) (all []Setting) {
	isStruct := func(t reflect.Type) bool { return t.Kind() == reflect.Struct && formOf(t) == "" }
	switch {
	case v.Kind() == reflect.Pointer && !v.IsNil():
		return s.settings(path, v.Elem())
	case isStruct(v.Type()):
		for _, f := range fields(v.Type(), false) {
			all = append(all, s.settings(join(path, f.yaml), v.FieldByIndex(f.index))...)
		}
		return all
	case v.Kind() == reflect.Slice && v.Len() > 0 && isStruct(v.Type().Elem()):
		for i := range v.Len() {
			all = append(all, s.settings(join(path, strconv.Itoa(i)), v.Index(i))...)
		}
		return all
	}
	source := "default"
	if at, ok := s.places[joined(path)]; ok && at == (position{}) {
		source = s.named[strings.Join(path, ".")]
	} else if ok {
		source = fmt.Sprintf("%s:%d", s.name, at.line)
	}
	return []Setting{{strings.Join(path, "."), settingValue(v), source}}
}

// settingValue returns a value as one line of YAML, without secrets.
func settingValue(v reflect.Value) string {
	if v.IsZero() && !slices.Contains([]reflect.Kind{reflect.Bool, reflect.Int, reflect.Int64}, v.Kind()) {
		return ""
	}
	switch value := v.Interface().(type) {
	case []json.RawMessage, []byte:
		return "# not shown here"
	case string:
		return stringText(value)
	}
	if v.Kind() != reflect.Slice {
		return fmt.Sprint(v.Interface()) // a Secret conceals itself
	}
	items := make([]string, v.Len())
	for i := range items {
		items[i] = settingValue(v.Index(i))
	}
	return "[" + strings.Join(items, ", ") + "]"
}

// stringText returns text as YAML writes it on one line. What can be a password in a URL is left out.
func stringText(text string) string {
	if scheme, rest, ok := strings.Cut(text, "://"); ok {
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			rest = concealed + rest[at:]
		}
		if before, _, ok := strings.Cut(rest, "?"); ok {
			rest = before + "?" + concealed
		}
		text = scheme + "://" + rest
	}
	if written, err := yaml.Marshal(text); err == nil && !slices.Contains(written[:len(written)-1], '\n') {
		return string(written[:len(written)-1])
	}
	return strconv.Quote(text)
}
