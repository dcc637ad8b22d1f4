// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/viper"

	"github.com/mayfly-ca/mayfly/internal/suggest"
)

const (
	envPrefix = "MAYFLY_"
	// envPassword is the only variable without a key: a password must not be in a file that
	// operators edit.
	envPassword = "MAYFLY_CA_FILE_PASSWORD"
)

// setting is a key that holds one value.
type setting struct {
	key string // its path, joined with dots
	// fallback is its default, which has the type of the value: a string, a truth value, an int or
	// a time.Duration.
	fallback any
	// path states that the value is the name of a file or directory.
	path bool
	// choices are the only values permitted, if there are any.
	choices []string
}

// settings returns every key that holds one value and has one place in the file.
func settings() []setting {
	return []setting{
		{key: "listen.http", fallback: "127.0.0.1:5555"},
		{key: "listen.grpc", fallback: "127.0.0.1:5554"},
		{key: "listen.ops", fallback: "127.0.0.1:2112"},
		{key: "tls.certificate", fallback: "", path: true},
		{key: "tls.key", fallback: "", path: true},
		{key: "tls.min", fallback: "1.3", choices: []string{"1.2", "1.3"}},
		{key: "public_url", fallback: ""},
		{key: "issuers", fallback: "", path: true},
		{key: "compat", fallback: false},
		{key: "oidc.allow_loopback", fallback: false},
		{key: "oidc.proxy", fallback: ""},
		{key: "oidc.key_refresh", fallback: 15 * time.Minute},
		{key: "oidc.key_lifetime", fallback: 24 * time.Hour},
		{key: "oidc.kubernetes.api_server", fallback: ""},
		{key: "oidc.kubernetes.ca_file", fallback: "/var/run/fulcio/ca.crt", path: true},
		{key: "oidc.kubernetes.token_file", fallback: "/var/run/secrets/kubernetes.io/serviceaccount/token", path: true},
		{key: "ca.file.chain", fallback: "", path: true},
		{key: "ca.file.key", fallback: "", path: true},
		{key: "ca.file.password_file", fallback: "", path: true},
		{key: "ca.set", fallback: "", path: true},
		{key: "ca.signer_socket", fallback: "", path: true},
		{key: "certificate.lifetime", fallback: 10 * time.Minute},
		{key: "ct.disabled", fallback: false},
		{key: "limits.connections", fallback: 0},
		{key: "limits.idle", fallback: 650 * time.Second},
		{key: "limits.in_flight", fallback: 512},
		{key: "shutdown.grace", fallback: time.Duration(0)},
		{key: "shutdown.drain", fallback: 20 * time.Second},
		{key: "log.format", fallback: "json", choices: []string{"json", "text"}},
		{key: "log.level", fallback: "info", choices: []string{"debug", "info", "warn", "error"}},
	}
}

// variable returns the environment variable of a key: listen.http is MAYFLY_LISTEN_HTTP.
func variable(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// environment has the MAYFLY_ variables, all with known names.
type environment map[string]string

// newEnvironment reads environ in the form of os.Environ. An unknown MAYFLY_ variable is a warning,
// because it has no effect; the warning never shows its value.
func newEnvironment(r *report, environ []string) environment {
	known := []string{envPassword}
	for _, s := range settings() {
		known = append(known, variable(s.key))
	}
	inKubernetes := slices.ContainsFunc(environ, func(v string) bool { return strings.HasPrefix(v, "KUBERNETES_SERVICE_HOST=") })
	env := environment{}
	for _, assignment := range environ {
		name, value, ok := strings.Cut(assignment, "=")
		switch {
		case !ok || !strings.HasPrefix(name, envPrefix) || value == "":
		case slices.Contains(known, name):
			env[name] = value
		case inKubernetes && isServiceLink(name):
		default:
			r.warnings = append(r.warnings, Mistake{File: name, Text: "unknown environment variable" + suggest.DidYouMean(name, known)})
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

// scalars combines the sources of the values of settings. A later source overrides an earlier one:
// the default, the file, the environment. viper keeps that order; scalars reads from it only the
// keys of settings, each by its name.
type scalars struct {
	*report
	viper *viper.Viper
	// env has, by its key, the variable that has set a value.
	env map[string]string
}

func newScalars(r *report) *scalars {
	s := &scalars{report: r, viper: viper.New(), env: map[string]string{}}
	for _, set := range settings() {
		s.viper.SetDefault(set.key, set.fallback)
	}
	return s
}

// fromFile passes the file's values to viper, as the nested mappings that viper requires.
func (s *scalars) fromFile(values map[string]any) error {
	tree := map[string]any{}
	for key, value := range values {
		at, names := tree, strings.Split(key, ".")
		for _, name := range names[:len(names)-1] {
			below, ok := at[name].(map[string]any)
			if !ok {
				below = map[string]any{}
				at[name] = below
			}
			at = below
		}
		at[names[len(names)-1]] = value
	}
	if err := s.viper.MergeConfigMap(tree); err != nil {
		return fmt.Errorf("merging the file's values: %w", err)
	}
	return nil
}

// fromEnvironment passes the variables' values to viper. It sets them and does not use BindEnv,
// which reads the process's environment and not the one given to LoadServer.
func (s *scalars) fromEnvironment(env environment) {
	for _, set := range settings() {
		text, ok := env[variable(set.key)]
		if !ok {
			continue
		}
		s.env[set.key] = variable(set.key)
		value, problem := set.parse(text)
		if problem != "" {
			s.mistakes = append(s.mistakes, Mistake{File: variable(set.key), Text: problem})
			continue
		}
		s.viper.Set(set.key, value)
	}
}

// parse parses a value's text; problem is "" or a sentence.
func (set setting) parse(text string) (value any, problem string) {
	switch set.fallback.(type) {
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Sprintf("found %q, where true or false is wanted", shorten(text))
		}
		return b, ""
	case int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Sprintf("found %q, where a whole number is expected", shorten(text))
		}
		return n, ""
	case time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return nil, fmt.Sprintf("found %q, where a duration with its unit is wanted, such as 10m", shorten(text))
		}
		return d, ""
	}
	if len(set.choices) > 0 && !slices.Contains(set.choices, text) {
		return nil, fmt.Sprintf("found %q, where one of %s is wanted%s", shorten(text), strings.Join(set.choices, ", "), suggest.DidYouMean(text, set.choices))
	}
	return text, ""
}
