// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/viper"

	"github.com/mayfly-ca/mayfly/internal/suggest"
)

const envPrefix = "MAYFLY_"

// variable returns the environment variable of a key: listen.http is MAYFLY_LISTEN_HTTP.
func variable(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// scalars are the keys of the server configuration that hold one value and have one place in the
// file. viper supplies their defaults, and the environment's values, which override the file's.
type scalars struct {
	*report
	viper *viper.Viper
	all   []scalarKey
	env   map[string]string // the texts of variables, by key
}

// scalarKey is a key, its path joined with dots.
type scalarKey struct {
	key   string
	value reflect.Value
	tag   reflect.StructTag
}

// newScalars finds the scalar keys of server, and reads environ in the form of os.Environ. An unknown
// MAYFLY_ variable is a warning, because it has no effect; the warning never shows its value.
func newScalars(r *report, server reflect.Value, environ []string) *scalars {
	s := &scalars{report: r, viper: viper.New(), env: map[string]string{}}
	s.find(server, "")
	byVariable := map[string]string{}
	var known []string
	for _, k := range s.all {
		s.viper.SetDefault(k.key, k.tag.Get("default"))
		byVariable[variable(k.key)] = k.key
		known = append(known, variable(k.key))
	}
	inKubernetes := slices.ContainsFunc(environ, func(v string) bool { return strings.HasPrefix(v, "KUBERNETES_SERVICE_HOST=") })
	for _, assignment := range environ {
		name, value, ok := strings.Cut(assignment, "=")
		switch {
		case !ok || !strings.HasPrefix(name, envPrefix) || value == "":
		case byVariable[name] != "":
			s.env[byVariable[name]] = value
		case inKubernetes && isServiceLink(name):
		default:
			r.warnings = append(r.warnings, Mistake{File: name, Text: "unknown environment variable" + suggest.DidYouMean(name, known)})
		}
	}
	return s
}

// find adds the scalar keys of the struct v.
func (s *scalars) find(v reflect.Value, prefix string) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	for _, f := range (&decoder{}).fields(v.Type()) {
		value := v.FieldByIndex(f.index)
		switch _, secret := value.Interface().(Secret); {
		case secret, !slices.Contains([]reflect.Kind{reflect.Struct, reflect.Pointer, reflect.Slice}, value.Kind()):
			s.all = append(s.all, scalarKey{prefix + f.yaml, value, f.tag})
		case value.Kind() != reflect.Slice:
			s.find(value, prefix+f.yaml+".")
		}
	}
}

// defaults sets the defaults.
func (s *scalars) defaults() {
	for _, k := range s.all {
		if k.tag.Get("default") != "" {
			setText(k.value, k.tag, s.viper.GetString(k.key))
		}
	}
}

// variables sets the environment's values, and returns their variables by key.
func (s *scalars) variables() map[string]string {
	env := map[string]string{}
	for _, k := range s.all {
		text, ok := s.env[k.key]
		if !ok {
			continue
		}
		s.viper.Set(k.key, text) // not BindEnv, which reads the process's environment and not environ
		env[k.key] = variable(k.key)
		if problem := setText(k.value, k.tag, s.viper.GetString(k.key)); problem != "" {
			s.mistakes = append(s.mistakes, Mistake{File: variable(k.key), Text: problem})
		}
	}
	return env
}

// isServiceLink reports whether Kubernetes sets such a variable for every Service with a name that
// begins with "mayfly": MAYFLY_SERVICE_HOST, MAYFLY_SERVICE_PORT_HTTP, MAYFLY_PORT,
// MAYFLY_PORT_5555_TCP_ADDR. No key of mayfly has that form.
func isServiceLink(name string) bool {
	if strings.HasSuffix(name, "_SERVICE_HOST") || strings.HasSuffix(name, "_PORT") || strings.Contains(name, "_SERVICE_PORT") {
		return true
	}
	_, after, ok := strings.Cut(name, "_PORT_")
	return ok && after != "" && '0' <= after[0] && after[0] <= '9'
}
