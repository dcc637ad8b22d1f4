// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// nonEmptyText is the requirement for most claims, as messages state it.
const nonEmptyText = "non-empty text"

// textClaim returns the claim name, which must be non-empty text.
func textClaim(claims oidc.Claims, name string) (string, error) {
	return memberText(claims, name, fmt.Sprintf("claim %q", name))
}

// memberText returns the member name of object, which must be non-empty text; what is the object's
// name in messages.
func memberText(object map[string]any, name, what string) (string, error) {
	v, present := object[name]
	if s, ok := v.(string); ok && s != "" {
		return s, nil
	}
	if !present {
		return "", missing(what, nonEmptyText)
	}
	return "", unusable(what, v, nonEmptyText)
}

// memberObject returns the member name of object, which must itself be an object.
func memberObject(object map[string]any, name, what string) (map[string]any, error) {
	v, present := object[name]
	if !present {
		return nil, missing(what, "an object")
	}
	member, ok := v.(map[string]any)
	if !ok {
		return nil, unusable(what, v, "an object")
	}
	return member, nil
}

// claimRefusal refuses the claim name, which has the value v instead of the required want.
func claimRefusal(name string, v any, want string) *refusal.Error {
	return unusable(fmt.Sprintf("claim %q", name), v, want)
}

func missing(what, want string) *refusal.Error {
	return refusal.New(refusal.ClaimMissing, "the token's %s is missing; it must be %s", what, want)
}

// unusable refuses a value that is present but unusable: null and empty text count as missing,
// anything else as invalid.
func unusable(what string, v any, want string) *refusal.Error {
	reason := refusal.ClaimInvalid
	if v == nil || v == "" {
		reason = refusal.ClaimMissing
	}
	return refusal.New(reason, "the token's %s is %s; it must be %s", what, kindOf(v), want)
}

// kindOf names the JSON kind of a claim's value, as in "it is null".
func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
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
	case map[string]any:
		return "an object"
	default:
		return "of an unknown kind"
	}
}

// missingClaims refuses a token that lacks several claims, so that the operator sees all of them at
// once; names is not empty.
func missingClaims(names []string) *refusal.Error {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = quote(name)
	}
	if len(names) == 1 {
		return refusal.New(refusal.ClaimMissing, "the token's claim %s is missing, empty or null; the issuer's type or templates need it", quoted[0])
	}
	return refusal.New(refusal.ClaimMissing, "the token's claims %s are missing, empty or null; the issuer's type or templates need them", strings.Join(quoted, ", "))
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
