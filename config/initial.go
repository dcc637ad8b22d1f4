// SPDX-License-Identifier: Apache-2.0

package config

import (
	"embed"
	"fmt"
	"regexp"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"
)

//go:embed providers
var providerFiles embed.FS

// Provider is an OpenID provider for which `mayfly config init` writes an issuer entry. Its file in
// providers has these fields, and after --- a text/template with [[ and ]].
type Provider struct {
	Name, Title string
	// Open has the issuer URLs and patterns by which every user of a public service is a caller. Rule
	// is an example of a rule against that.
	Open       []string
	Rule       string
	Parameters []Parameter

	// file has the entry and, as the template "metadata", its ci-issuer-metadata.
	file *template.Template
}

// Parameter is a value of a provider's entry that the operator chooses. One with an Example is
// required, and one without it and without a Default is optional.
type Parameter struct {
	Name, About, Default, Example string
	// Kind decides the characters of a value.
	Kind string
}

// Providers returns the providers of `mayfly config init` by name.
func Providers() (map[string]*Provider, error) {
	files, err := providerFiles.ReadDir("providers")
	all := map[string]*Provider{}
	for _, file := range files {
		content, err := providerFiles.ReadFile("providers/" + file.Name())
		if err != nil {
			return nil, err
		}
		p := &Provider{Name: strings.TrimSuffix(file.Name(), ".yaml")}
		fields, source, _ := strings.Cut(string(content), "---\n")
		decoder := yaml.NewDecoder(strings.NewReader(fields))
		decoder.KnownFields(true)
		if err = decoder.Decode(p); err == nil {
			p.file, err = template.New(p.Name).Delims("[[", "]]").Option("missingkey=error").Funcs(initialFuncs()).Parse(source)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the provider %s: %w", p.Name, err)
		}
		all[p.Name] = p
	}
	return all, err
}

// Expected describes the parameter's values.
func (p Parameter) Expected() string {
	switch {
	case p.Default != "":
		return p.About + ", by default " + p.Default
	case p.Example != "":
		return p.About + ", such as " + p.Example
	}
	return p.About
}

// Check returns why the parameter cannot have the value. A value of any kind stays a part of what
// is around it: between quotes, in a URL, and in an expression.
func (p Parameter) Check(value string) error {
	const name, label = `[A-Za-z0-9][A-Za-z0-9._-]*`, `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`
	const origin = `https://` + label + `(\.` + label + `)*(:[1-9][0-9]{0,4})?`
	const url = origin + `(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*`
	const path = name + `(/` + name + `)*`
	pattern := map[string]string{
		"name": name, "path": path, "branches": path + `(,` + path + `)*`, "number": `[0-9]+`,
		"label": label, "domain": `(` + label + `\.)+[a-z]([a-z0-9-]*[a-z0-9])?`,
		"uuid": `[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`, "url": url, "url/": url + "/", "origin": origin,
		"buddy": `https://((eu|asia)-)?oidc\.buddyusercontent\.com`,
	}[p.Kind]
	ok, err := regexp.MatchString(`^(`+pattern+`)$`, value)
	switch {
	case err != nil:
		return err
	case value == "" && p.Example+p.Default == "":
		return nil
	case value == "":
		return fmt.Errorf("a value is missing; expected is %s", p.Expected())
	case !ok || len(value) > 500 || strings.Contains(value, "YOUR-") || p.Kind == "branches" && strings.Contains(","+value, ",refs/"):
		return fmt.Errorf("found %q, expected %s", shorten(value), p.Expected())
	}
	return nil
}

// initialFuncs are the functions of the providers' templates.
func initialFuncs() template.FuncMap {
	return template.FuncMap{
		"hasSuffix": strings.HasSuffix,
		"replace":   strings.ReplaceAll,
		"host": func(url string) string {
			return strings.SplitN(url, "/", 4)[2]
		},
		"first": func(values string) string {
			return strings.Split(values, ",")[0]
		},
		"quoted": func(prefix, values string) string {
			return `"` + prefix + strings.ReplaceAll(values, ",", `", "`+prefix) + `"`
		},
	}
}

// InitialIssuers returns an issuer file that trusts the providers. values has by the name of a provider
// the values of its parameters, which Check has accepted.
func InitialIssuers(providers []*Provider, values map[string]map[string]string) (string, error) {
	entries, metadata := &strings.Builder{}, &strings.Builder{}
	for _, p := range providers {
		err := p.file.Execute(entries, values[p.Name])
		if m := p.file.Lookup("metadata"); err == nil && m != nil {
			err = m.Execute(metadata, values[p.Name])
		}
		if err != nil {
			return "", fmt.Errorf("writing the entry of %s: %w", p.Name, err)
		}
	}
	text := initialHead + entries.String()
	if metadata.Len() > 0 {
		text += "\n# How certificates are built from the claims of CI providers that are not built in.\nci-issuer-metadata:" + metadata.String()
	}
	return text, nil
}

const initialHead = `# The providers whose ID tokens get certificates. "mayfly config check" runs the tests of this file.
# In mayfly's source, docs/issuers.md describes the providers, and docs/configuration.md each key.

oidc-issuers:`
