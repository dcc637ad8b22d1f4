// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Step is one check of a token, for the examination of a refusal.
type Step struct {
	// Name is the name of the check: form, issuer, times, audience, subject, keys, signature.
	Name string
	// Found states the compared values. It may quote claims, and never holds the token. It is "" if
	// Err states everything.
	Found string
	// Err is the refusal; nil if the token passed.
	Err error
}

// Judge checks claims as Verify checks those of a token, except times and signature. It calls
// observe, which may be nil, for each step. Judge is for tests of settings; its result proves
// nothing.
func (v *Verifier) Judge(claims Claims, observe func(Step)) (*Token, error) {
	token, _, err := v.check(&idToken{claims: claims}, time.Time{}, tracer(observe))
	return token, err
}

// UnverifiedClaims returns the claims of a token of the right form, without any verification.
func UnverifiedClaims(rawIDToken string) (Claims, error) {
	token, err := parseToken(rawIDToken)
	if err != nil {
		return nil, err
	}
	return token.claims, nil
}

// tracer receives the steps of one token; a nil tracer does nothing, at no cost.
type tracer func(Step)

func (t tracer) step(name string, err error, found func() string) {
	switch {
	case t == nil:
	case err != nil:
		t(Step{Name: name, Err: err})
	default:
		t(Step{Name: name, Found: found()})
	}
}

func (t tracer) form(token *idToken, err error) {
	t.step("form", err, func() string {
		keyID := "no kid"
		if token.keyID != "" {
			keyID = "kid " + quote(token.keyID)
		}
		return fmt.Sprintf("a compact JWS of %d bytes, alg %s, %s, %d claims", len(token.raw), token.alg, keyID, len(token.claims))
	})
}

func (t tracer) issuer(issuerURL string, e *entry, err error) {
	t.step("issuer", err, func() string {
		if e.URL != "" {
			return fmt.Sprintf("iss is %s, which has an entry", quote(issuerURL))
		}
		return fmt.Sprintf("iss is %s, which matches the wildcard %s", quote(issuerURL), quote(e.Pattern))
	})
}

func (t tracer) times(expiry, now time.Time, err error) {
	t.step("times", err, func() string {
		return fmt.Sprintf("exp is %s, in %s", expiry.UTC().Format(time.RFC3339), expiry.Sub(now).Round(time.Second))
	})
}

func (t tracer) audience(token *Token, e *entry, err error) {
	t.step("audience", err, func() string {
		text := fmt.Sprintf("aud is %s; accepted is %s", quoteList(token.Audience), quoteList(e.allAudiences()))
		if token.Profile != "" {
			text += ", and this one is of profile " + quote(token.Profile)
		}
		return text
	})
}

func (t tracer) subject(subject string, err error) {
	t.step("subject", err, func() string { return "sub is " + quote(subject) })
}

func (t tracer) keys(k *keys, err error) {
	t.step("keys", err, func() string {
		var ids []string
		for _, key := range k.list {
			if key.id != "" && !slices.Contains(ids, key.id) {
				ids = append(ids, key.id)
			}
		}
		return fmt.Sprintf("%d keys of %s, kid %s; algorithms %s",
			len(k.list), quote(k.jwksURI), quoteList(ids), strings.Join(k.algorithms, ", "))
	})
}

func (t tracer) signature(token *idToken, err error) {
	t.step("signature", err, func() string { return "it verifies with " + token.alg })
}
