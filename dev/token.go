// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
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
		var claims map[string]any
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err == nil {
			claims, err = claimsOf(query)
		}
		var token string
		if err == nil {
			token, err = p.Mint(claims)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, token)
	})
}

// claimsOf turns a query into claims. A name that occurs twice is a list.
func claimsOf(query url.Values) (map[string]any, error) {
	claims := make(map[string]any)
	for name, values := range query {
		list := make([]any, len(values))
		for i, value := range values {
			var err error
			if list[i], err = claimOf(name, value); err != nil {
				return nil, err
			}
		}
		claims[name] = list
		if len(list) == 1 {
			claims[name] = list[0]
		}
	}
	return complete(claims), nil
}

// claimOf returns a value of a query as a claim. It is text by default. An empty value omits the
// claim, true and false are booleans, time claims are numbers, and what begins like a JSON object or
// list is one.
func claimOf(name, value string) (any, error) {
	isTime := slices.Contains([]string{"exp", "iat", "nbf", "auth_time"}, name)
	switch {
	case value == "":
		return nil, nil
	case isTime:
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("the claim %s is %q; it is a time, a whole number of seconds since 1970", name, value)
		}
		return seconds, nil
	case value == "true", value == "false":
		return value == "true", nil
	case strings.HasPrefix(value, "{"), strings.HasPrefix(value, "["):
		if !json.Valid([]byte(value)) {
			return nil, fmt.Errorf("the claim %s begins like JSON and is none", name)
		}
		return json.RawMessage(value), nil
	}
	return value, nil
}

// complete returns claims with those of a person's token: an address, that it was verified, and a
// subject.
func complete(given map[string]any) map[string]any {
	claims := make(map[string]any)
	maps.Copy(claims, given)
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
