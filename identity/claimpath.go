// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/oidc"
)

// claimPath is a JSONPath that names one value: the members and indexes that lead to it, of
// types string and int.
type claimPath []any

// parseClaimPath parses the part of JSONPath (RFC 9535) that names exactly one value:
//
//	path    = "$" 1*( "." name / "['" text "']" / "[" DQUOTE text DQUOTE "]" / "[" index "]" )
//	name    = 1*( ALPHA / DIGIT / "_" / "-" / non-ASCII )
//	index   = 1*9DIGIT
//
// Text between quotes holds no quote of its kind, and no backslash. parseClaimPath refuses
// wildcards, slices, filters and descent, because the issuer must be one for every token.
func parseClaimPath(s string) (claimPath, error) {
	rest, ok := strings.CutPrefix(s, "$")
	if !ok {
		return nil, fmt.Errorf("the JSONPath %s does not begin with $; write it as $.federated_claims.connector_id", quote(s))
	}
	var path claimPath
	for rest != "" {
		step, after, err := cutStep(rest)
		if err != nil {
			return nil, fmt.Errorf("the JSONPath %s cannot be used at %s: %w", quote(s), quote(rest), err)
		}
		path, rest = append(path, step), after
	}
	if path == nil {
		return nil, errors.New("the JSONPath $ names all claims together; add the claim, as in $.federated_claims.connector_id")
	}
	return path, nil
}

var errClaimPathStep = errors.New(`only .name, ['name'], ["name"] and [0] are supported here, so that it names one value`)

// cutStep removes the first step from a path that is not empty.
func cutStep(s string) (step any, rest string, err error) {
	if after, ok := strings.CutPrefix(s, "."); ok {
		n := strings.IndexFunc(after, func(r rune) bool {
			return r < 0x80 && !isAlphanumeric(byte(r)) && r != '_' && r != '-'
		})
		if n < 0 {
			n = len(after)
		}
		if n == 0 {
			return nil, "", errClaimPathStep
		}
		return after[:n], after[n:], nil
	}
	inner, ok := strings.CutPrefix(s, "[")
	if !ok || inner == "" {
		return nil, "", errClaimPathStep
	}
	if q := inner[:1]; q == "'" || q == `"` {
		name, after, ok := strings.Cut(inner[1:], q+"]")
		if !ok || name == "" || strings.Contains(name, q) || strings.Contains(name, `\`) {
			return nil, "", errClaimPathStep
		}
		return name, after, nil
	}
	digits, after, ok := strings.Cut(inner, "]")
	if !ok || len(digits) > 9 || strings.Trim(digits, "0123456789") != "" {
		return nil, "", errClaimPathStep
	}
	index, err := strconv.Atoi(digits)
	if err != nil {
		return nil, "", errClaimPathStep
	}
	return index, after, nil
}

// text returns the text that p names in claims.
func (p claimPath) text(claims oidc.Claims) (string, error) {
	what := fmt.Sprintf("claim at %s (the issuer-claim)", p)
	var v any = claims
	for _, step := range p {
		present := false
		switch step := step.(type) {
		case string:
			var object map[string]any
			if object, present = v.(map[string]any); present {
				v, present = object[step]
			}
		case int:
			var list []any
			if list, present = v.([]any); present {
				if present = step < len(list); present {
					v = list[step]
				}
			}
		}
		if !present {
			return "", missing(what, nonEmptyText)
		}
	}
	if s, ok := v.(string); ok && s != "" {
		return s, nil
	}
	return "", unusable(what, v, nonEmptyText)
}

// String returns the path in its bracketed form.
func (p claimPath) String() string {
	var b strings.Builder
	b.WriteByte('$')
	for _, step := range p {
		switch step := step.(type) {
		case string:
			fmt.Fprintf(&b, "['%s']", step)
		case int:
			fmt.Fprintf(&b, "[%d]", step)
		}
	}
	return b.String()
}
