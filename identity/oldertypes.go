// SPDX-License-Identifier: Apache-2.0

package identity

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

//go:embed oldertypes.yaml
var olderTypes []byte

// olderType returns the rule of a CI type that is older than ci-provider.
func (b *builder) olderType(issuerType string) rule {
	var types map[string]struct {
		CIProvider `yaml:",inline"`
		Required   []string
	}
	compiler := builder{}
	err := yaml.Unmarshal(olderTypes, &types)
	t := types[issuerType]
	r := compiler.provider(t.CIProvider, nil)
	if err := errors.Join(append(compiler.errs, err)...); err != nil {
		b.errs = append(b.errs, fmt.Errorf("reading the older type %s: %w", issuerType, err))
		return nil
	}
	r.names = append(r.names, t.Required...)
	r.required = slices.DeleteFunc(slices.Clone(r.names), func(name string) bool {
		_, optional := t.DefaultTemplateValues[name]
		return optional
	})
	r.older, r.separate = issuerType, true
	return r
}

// prepareOlder checks what the texts of the claims do not show.
func prepareOlder(issuerType string, claims oidc.Claims, values map[string]string) error {
	switch account := values["account_name"]; {
	case issuerType == TypeGitlabPipeline:
		return prepareGitlab(claims, values)
	case issuerType == TypeCodefreshWorkflow && strings.Contains(account, ":"):
		return refusal.New(refusal.ClaimInvalid, `the token's claim "account_name" is %s; it must hold no ":", which separates the pipeline from its identifiers`, quote(account))
	}
	return nil
}

// prepareGitlab checks runner_id, which no certificate shows, and completes the ref.
func prepareGitlab(claims oidc.Claims, values map[string]string) error {
	number, ok := claims["runner_id"].(oidc.Number)
	if id, err := strconv.ParseInt(string(number), 10, 64); !ok || err != nil || id == 0 {
		return claimRefusal("runner_id", claims["runner_id"], "a whole number, not 0")
	}
	folder, ok := map[string]string{"branch": "refs/heads/", "tag": "refs/tags/"}[values["ref_type"]]
	if !ok {
		return refusal.New(refusal.ClaimInvalid, `the token's claim "ref_type" is %s; it must be "branch" or "tag"`, quote(values["ref_type"]))
	}
	values["ref"] = folder + values["ref"]
	return nil
}

// olderURL returns raw, the result of the parts, as the older types print it; joined states that
// url.JoinPath has formatted it.
func olderURL(parts []part, raw string, values map[string]string) (formatted string, joined bool, err error) {
	switch {
	case len(parts) == 1: // a claim
		return raw, false, nil
	case parts[0].kind == field:
		formatted, err = joinPath(values[parts[0].text], raw)
		return formatted, true, err
	}
	formatted, err = withHTTPS(raw)
	return formatted, false, err
}
