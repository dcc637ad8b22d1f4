// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// shippedNames returns the SAN templates of config/issuers.yaml that hold several claims. Their
// claims are kept apart without distinct-claims.
func shippedNames() []string {
	return []string{
		"{{.url}}/{{.job_workflow_ref}}",
		"{{.platform_url}}/{{.account_name}}/{{.pipeline_name}}:{{.account_id}}/{{.pipeline_id}}",
		"{{.url}}/{{.organization_slug}}/{{.pipeline_slug}}",
		`{{.api_url}}/projects/{{index . "oidc.circleci.com/project-id"}}/pipeline-definitions/{{index . "oidc.circleci.com/pipeline-definition-id"}}`,
		"{{.base_url}}/{{.workspace_domain}}/{{.project_name}}/pipelines/pipeline/{{.pipeline_id}}",
	}
}

func isShippedName(parts []part) bool {
	return slices.ContainsFunc(shippedNames(), func(source string) bool {
		t, err := parseTemplate(source)
		return err == nil && slices.Equal(t.parts, parts)
	})
}

// pair is a claim in a concatenation, and the claim that follows it.
type pair struct {
	first, second string
	separator     string // the fixed text between them
	offset        int    // of first in the result
}

// pairs returns each claim of a concatenation that another claim follows. Names for which fixed is
// true are the operator's text.
func pairs(parts []part, values map[string]string, fixed func(name string) bool) (all []pair) {
	var open *pair
	offset := 0
	for _, p := range parts {
		text := p.text
		if p.kind != literal {
			text = values[p.text]
		}
		if p.kind == literal || fixed(p.text) {
			if open != nil {
				open.separator += text
			}
		} else {
			if open != nil {
				open.second = p.text
				all = append(all, *open)
			}
			open = &pair{first: p.text, offset: offset}
		}
		offset += len(text)
	}
	return all
}

// checkSeparate refuses raw, the result of the parts, if other claims together could have the same
// result. None could if each claim ends where its separator first begins.
func checkSeparate(raw string, parts []part, values map[string]string, fixed func(name string) bool) error {
	for _, p := range pairs(parts, values, fixed) {
		if !ends(raw[p.offset:], values[p.first], p.separator) {
			return refusal.New(refusal.ClaimInvalid, "the token's claim %s, %s, holds %s, which separates it from the claim %s in the name; other claims could make the same name",
				quote(p.first), quote(values[p.first]), quote(p.separator), quote(p.second))
		}
	}
	return nil
}

// ends reports whether the text at the beginning of s ends where the separator is first found
// in s. The separator in the scheme of a URL does not count.
func ends(s, text, separator string) bool {
	skip := 0
	if scheme, _, ok := strings.Cut(s, "://"); ok && !strings.ContainsAny(scheme, "/:?#") {
		skip = len(scheme) + len("://")
	}
	return separator != "" && skip+strings.Index(s[skip:], separator) == len(text)
}
