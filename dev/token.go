// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// DefaultEmail is the address in a token for which the caller named none.
const DefaultEmail = "you@example.com"

// tokenHandler mints a token for scripts: GET /dev/token?email=…&<claim>=….
func tokenHandler(p *provider.Provider) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", "GET")
			http.Error(w, "a token is asked for with GET", http.StatusMethodNotAllowed)
			return
		}
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			http.Error(w, "the query cannot be read: "+err.Error(), http.StatusBadRequest)
			return
		}
		claims, err := claimsOf(query)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		token, err := p.Mint(claims)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, token)
	})
}

// claimsOf turns a query into claims. A value is text by default. true and false are booleans, what
// begins like a JSON object or array is one, and time claims are numbers. A name that occurs twice
// is a list, and an empty value omits the claim.
func claimsOf(query url.Values) (map[string]any, error) {
	claims := make(map[string]any)
	for name, values := range query {
		var list []any
		for _, value := range values {
			claim, err := claimOf(name, value)
			if err != nil {
				return nil, err
			}
			list = append(list, claim)
		}
		if len(list) == 1 {
			claims[name] = list[0]
		} else {
			claims[name] = list
		}
	}
	return complete(claims), nil
}

func claimOf(name, value string) (any, error) {
	switch name {
	case "exp", "iat", "nbf", "auth_time":
		if value == "" {
			return nil, nil
		}
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("the claim %s is %q; it is a time, a whole number of seconds since 1970", name, value)
		}
		return seconds, nil
	}
	switch {
	case value == "":
		return nil, nil
	case value == "true", value == "false":
		return value == "true", nil
	case strings.HasPrefix(value, "{"), strings.HasPrefix(value, "["):
		var parsed json.RawMessage
		if err := json.Unmarshal([]byte(value), &parsed); err != nil {
			return nil, fmt.Errorf("the claim %s begins like JSON and is none: %w", name, err)
		}
		return parsed, nil
	default:
		return value, nil
	}
}

// complete adds the claims of a person's token: an address, that it was verified, and a subject.
func complete(claims map[string]any) map[string]any {
	_, hasEmail := claims["email"]
	_, hasSubject := claims["sub"]
	if !hasEmail && !hasSubject {
		claims["email"], hasEmail = DefaultEmail, true
	}
	if _, ok := claims["email_verified"]; !ok && hasEmail {
		claims["email_verified"] = true
	}
	if !hasSubject {
		claims["sub"] = claims["email"]
	}
	return claims
}
