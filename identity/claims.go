// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// nonEmptyText is the requirement for most claims, as messages state it.
const nonEmptyText = "non-empty text"

// textClaim returns the claim name, which must be non-empty text.
func textClaim(claims oidc.Claims, name string) (string, error) {
	if s, _ := claims[name].(string); s != "" {
		return s, nil
	}
	return "", claimRefusal(name, claims[name], nonEmptyText)
}

// optionalText returns the claim name, which must be text if it is present and not null.
func optionalText(claims oidc.Claims, name string) (string, error) {
	s, ok := claims[name].(string)
	if !ok && claims[name] != nil {
		return "", claimRefusal(name, claims[name], "text")
	}
	return s, nil
}

// claimRefusal refuses the claim name, which has the value v instead of the required want.
func claimRefusal(name string, v any, want string) *refusal.Error {
	return unusable(fmt.Sprintf("claim %q", name), v, want)
}

// unusable refuses a value: nil and empty text count as missing, anything else as invalid.
func unusable(what string, v any, want string) *refusal.Error {
	reason := refusal.ClaimInvalid
	if v == nil || v == "" {
		reason = refusal.ClaimMissing
	}
	return refusal.New(reason, "the token's %s is %s; it must be %s", what, kindOf(v), want)
}

// kindOf names the JSON kind of a claim's value, as in "it is empty".
func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "missing or null"
	case string:
		if v == "" {
			return "empty"
		}
		return "text"
	case oidc.Number:
		return "a number"
	case bool:
		return "a boolean"
	case []any:
		return "a list"
	default:
		return "an object"
	}
}

// missingClaims refuses a token that lacks claims. It names all of them at once.
func missingClaims(names []string) *refusal.Error {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = quote(name)
	}
	return refusal.New(refusal.ClaimMissing,
		"the issuer's type or templates need claims that are missing, empty or null in the token: %s", strings.Join(quoted, ", "))
}

// quote returns s for a message to the client: in double quotes, with non-printing characters
// escaped, and cut to 100 characters.
func quote(s string) string {
	const limit = 100
	n := 0
	for i := range s {
		if n++; n > limit {
			return fmt.Sprintf("%q…", s[:i])
		}
	}
	return fmt.Sprintf("%q", s)
}

// claimPath is a JSONPath that names one value: the members (string) and indexes (int) that lead to
// it.
type claimPath []any

// claimStep is one step of a claimPath: .name, ['name'], ["name"] or [index].
var claimStep = regexp.MustCompile(`^(?:\.([-_0-9A-Za-z\x{80}-\x{10FFFF}]+)|\['([^'\\]+)'\]|\["([^"\\]+)"\]|\[([0-9]{1,9})\])`)

// parseClaimPath parses the part of JSONPath (RFC 9535) that names exactly one value: $ and then
// claimSteps. It refuses wildcards, slices, filters and descent, because the issuer must be one for
// every token.
func parseClaimPath(s string) (claimPath, error) {
	rest, ok := strings.CutPrefix(s, "$")
	if !ok || rest == "" {
		return nil, fmt.Errorf("the JSONPath %s does not begin with $ and name one claim, as in $.federated_claims.connector_id", quote(s))
	}
	var path claimPath
	for rest != "" {
		step := claimStep.FindStringSubmatch(rest)
		if step == nil {
			return nil, fmt.Errorf(`the JSONPath %s cannot be used at %s: only .name, ['name'], ["name"] and [0] are supported here, so that it names one value`, quote(s), quote(rest))
		}
		rest = rest[len(step[0]):]
		if index, err := strconv.Atoi(step[4]); err == nil {
			path = append(path, index)
		} else {
			path = append(path, step[1]+step[2]+step[3])
		}
	}
	return path, nil
}

// text returns the text that p names in claims.
func (p claimPath) text(claims oidc.Claims) (string, error) {
	var v any = claims
	for i, step := range p {
		parent := v
		v = nil
		switch parent := parent.(type) {
		case map[string]any:
			if name, ok := step.(string); ok {
				v = parent[name]
			}
		case []any:
			if index, ok := step.(int); ok && index < len(parent) {
				v = parent[index]
			}
		case nil:
		default:
			return "", unusable("claim at "+p[:i].String(), parent, "an object or a list")
		}
	}
	if s, _ := v.(string); s != "" {
		return s, nil
	}
	return "", unusable("claim at "+p.String(), v, nonEmptyText)
}

// String returns the path in its bracketed form.
func (p claimPath) String() string {
	text := "$"
	for _, step := range p {
		if name, ok := step.(string); ok {
			text += "['" + name + "']"
		} else {
			text += fmt.Sprintf("[%d]", step)
		}
	}
	return text
}
