// SPDX-License-Identifier: Apache-2.0

package server

import (
	"strings"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// idToken returns the one ID token of a request, from its message or from a header. The same token
// may be in several places. Two different tokens are refused, because the caller could mean either.
func idToken(message string, authorization, headers []string) (string, error) {
	token := strings.TrimSpace(message)
	foreign := false // an Authorization header of another scheme, which may be a proxy's
	for _, value := range authorization {
		found, ok := bearer(value)
		if !ok {
			foreign = true
			continue
		}
		if err := sameToken(&token, found); err != nil {
			return "", err
		}
	}
	for _, value := range headers {
		if err := sameToken(&token, strings.TrimSpace(value)); err != nil {
			return "", err
		}
	}
	switch {
	case token != "":
		return token, nil
	case foreign:
		return "", refusal.New(refusal.TokenMissing, "the Authorization header does not have the form \"Bearer TOKEN\", and there is no ID token elsewhere in the request")
	default:
		return "", refusal.New(refusal.TokenMissing, "the request carries no ID token; send one in the header \"Authorization: Bearer TOKEN\", or with API v2 in credentials.oidcIdentityToken")
	}
}

// sameToken sets token to found if it is empty, and refuses two different tokens.
func sameToken(token *string, found string) error {
	switch {
	case found == "" || found == *token:
		return nil
	case *token == "":
		*token = found
		return nil
	default:
		return refusal.New(refusal.RequestMalformed, "the request carries two different ID tokens (in its message and its headers, or in two headers); send one")
	}
}

// bearer returns the credentials of an Authorization header with the scheme Bearer, in any case
// (RFC 9110, section 11.1), without surrounding white space. They may be empty.
func bearer(header string) (string, bool) {
	const scheme = "bearer"
	header = strings.TrimSpace(header)
	if len(header) < len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return "", false
	}
	rest := header[len(scheme):]
	if rest != "" && rest[0] != ' ' && rest[0] != '\t' {
		return "", false
	}
	return strings.TrimSpace(rest), true
}
