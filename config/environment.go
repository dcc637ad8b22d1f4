// SPDX-License-Identifier: Apache-2.0

package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/viper"

	"github.com/mayfly-ca/mayfly/internal/suggest"
)

const envPrefix = "MAYFLY_"

// variable returns the environment variable of a key, its path joined with dots: listen.http is
// MAYFLY_LISTEN_HTTP.
func variable(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// environment reads the variables of document's scalar keys from environ, in the form of os.Environ.
// viper has the keys with their defaults, and the variables' values. An unknown MAYFLY_ variable is a
// warning, because it has no effect; the warning never shows its value.
func (d *decoder) environment(document reflect.Type, environ []string) {
	d.variables, d.named = viper.New(), map[string]string{}
	byVariable := map[string]string{}
	scalarKeys(document, "", func(key string, f field) {
		d.variables.SetDefault(key, f.tag.Get("default"))
		byVariable[variable(key)] = key
	})
	inKubernetes := slices.ContainsFunc(environ, func(v string) bool { return strings.HasPrefix(v, "KUBERNETES_SERVICE_HOST=") })
	for _, assignment := range environ {
		name, value, ok := strings.Cut(assignment, "=")
		key, known := byVariable[name]
		switch {
		case !ok || !strings.HasPrefix(name, envPrefix) || value == "":
		case known:
			d.variables.Set(key, value) // not BindEnv, which reads the process's environment and not environ
			d.named[key] = name
		case inKubernetes && (strings.Contains(name, "_PORT") || strings.Contains(name, "_SERVICE_")):
			// Kubernetes sets such variables for every Service with a name that begins with "mayfly":
			// MAYFLY_SERVICE_HOST, MAYFLY_PORT_5555_TCP_ADDR. No key of mayfly has that form.
		default:
			hint := suggest.DidYouMean(name, slices.Sorted(maps.Keys(byVariable)))
			d.warnings = append(d.warnings, Mistake{File: name, Text: "unknown environment variable" + hint})
		}
	}
}

// scalarKeys calls do for each key of a struct that holds one value and has one place in the file.
func scalarKeys(t reflect.Type, prefix string, do func(key string, f field)) {
	for _, f := range fields(t, false) {
		of, key := t.FieldByIndex(f.index).Type, prefix+f.yaml
		if of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		if formOf(of) != "" {
			do(key, f)
		} else if of.Kind() == reflect.Struct {
			scalarKeys(of, key+".", do)
		}
	}
}

// variablesBelow reports whether a variable sets a key below path.
func (d *decoder) variablesBelow(path []string) bool {
	for key := range d.named {
		if strings.HasPrefix(key, strings.Join(path, ".")+".") {
			return true
		}
	}
	return false
}
