// SPDX-License-Identifier: Apache-2.0

package identity

import (
	_ "embed"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed ciproviders.yaml
var ciProviders []byte

// BuiltIn returns the CI providers that an issuer file may name without an entry of its own, by name.
func BuiltIn() (map[string]CIProvider, error) {
	var file struct {
		Providers map[string]CIProvider `yaml:"ci-issuer-metadata"`
	}
	if err := yaml.Unmarshal(ciProviders, &file); err != nil {
		return nil, fmt.Errorf("reading the built-in CI providers: %w", err)
	}
	return file.Providers, nil
}

// isBuiltInName reports whether a SAN template is one of a built-in provider. Its claims are kept apart
// without distinct-claims.
func (b *builder) isBuiltInName(template string) bool {
	for _, p := range b.builtIn {
		if strings.ReplaceAll(p.SubjectAlternativeNameTemplate, " ", "") == strings.ReplaceAll(template, " ", "") {
			return true
		}
	}
	return false
}

// BuiltInText returns the built-in providers that have users, which are issuer entries, as the section
// ci-issuer-metadata. A comment names the users.
func BuiltInText(users map[string][]string) (text string) {
	head, providers, _ := strings.Cut(string(ciProviders), "\n  ")
	for _, provider := range strings.Split("  "+providers, "\n\n") {
		for name, used := range users {
			if strings.Contains("\n"+provider, "\n  "+name+":\n") {
				text += "\n  # Used by " + strings.Join(used, ", ") + "\n" + strings.TrimRight(provider, "\n") + "\n"
			}
		}
	}
	if text == "" {
		return ""
	}
	return head + text
}
