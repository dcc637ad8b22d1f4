// SPDX-License-Identifier: Apache-2.0

package identity

import (
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

//go:embed oldertypes.yaml
var olderTypes []byte

// olderType is a CI type that is older than ci-provider, as oldertypes.yaml describes it.
type olderType struct {
	Constants, Defaults, Extensions map[string]string
	Required                        []string
	Name, Nameless                  string

	issuerType string
	nameless   *claimTemplate
}

// olderType returns the rule of an older type.
func (b *builder) olderType(issuerType string) rule {
	var types map[string]*olderType
	if err := yaml.Unmarshal(olderTypes, &types); err != nil {
		b.errs = append(b.errs, fmt.Errorf("reading the older types: %w", err))
		return nil
	}
	older := types[issuerType]
	older.issuerType = issuerType
	compiler := builder{}
	r := compiler.provider(CIProvider{
		Constants: older.Constants, DefaultTemplateValues: older.Defaults,
		ExtensionTemplates: older.Extensions, SubjectAlternativeNameTemplate: older.Name,
	}, nil)
	if older.Nameless != "" {
		t, err := parseTemplate(older.Nameless)
		compiler.errs = append(compiler.errs, err)
		older.nameless = t
	}
	if err := errors.Join(compiler.errs...); err != nil {
		b.errs = append(b.errs, fmt.Errorf("reading the older type %s: %w", issuerType, err))
		return nil
	}
	r.names = append(r.names, older.Required...)
	r.required = slices.DeleteFunc(slices.Clone(r.names), func(name string) bool {
		_, optional := older.Defaults[name]
		return optional
	})
	r.older, r.separate = older, true
	return r
}

// prepare checks what the texts of the claims do not show, and returns the template of the name.
func (o *olderType) prepare(name *claimTemplate, claims oidc.Claims, values map[string]string) (*claimTemplate, error) {
	switch o.issuerType {
	case TypeGitlabPipeline:
		return name, prepareGitlab(claims, values)
	case TypeCodefreshWorkflow:
		// The first segment of a nameless account's name has the colon of the pipeline, and otherwise
		// no colon.
		account, pipeline := values["account_name"], values["pipeline_name"]
		if strings.Contains(account, ":") || account == "" && strings.Contains(pipeline, "/") {
			return nil, refusal.New(refusal.ClaimInvalid, `the token's claim "account_name" is %s; it must hold no ":", and not be empty where "pipeline_name" holds "/": other claims could make the same name`, quote(account))
		}
		if account == "" {
			return o.nameless, nil
		}
	}
	return name, nil
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
	u, err := url.Parse(strings.TrimPrefix(raw, "https://"))
	if err != nil || !isPrintable(raw) {
		return "", false, sanRefusal(raw, "is not a URI").Because(err)
	}
	u.Scheme = "https"
	return u.String(), false, nil
}
