// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
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

// BuiltInText returns as the section ci-issuer-metadata the built-in providers that have users, which
// are issuer entries. A comment names them. It returns "" for no users.
func BuiltInText(users map[string][]string) (string, error) {
	if len(users) == 0 {
		return "", nil
	}
	var file yaml.Node
	if err := yaml.Unmarshal(ciProviders, &file); err != nil {
		return "", fmt.Errorf("reading the built-in CI providers: %w", err)
	}
	providers := file.Content[0].Content[1]
	all := providers.Content // names and entries in turn
	providers.Content = nil
	for i := 0; i < len(all); i += 2 {
		name := all[i]
		if used := users[name.Value]; len(used) > 0 {
			name.HeadComment = strings.TrimSpace(name.HeadComment + "\n# Used by " + strings.Join(used, ", "))
			providers.Content = append(providers.Content, name, all[i+1])
		}
	}
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	err := encoder.Encode(&file)
	return text.String(), err
}
