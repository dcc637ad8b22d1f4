// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"fmt"
	"net/netip"
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

// Trace is Verify, and calls observe, which may be nil, with each step in order. If a step fails,
// it is the last one.
func (v *Verifier) Trace(ctx context.Context, rawIDToken string, observe func(Step)) (*Token, error) {
	x, err := v.verify(ctx, rawIDToken, netip.Addr{})
	return x.report(err, observe, "form", "issuer", "times", "audience", "subject", "keys", "signature")
}

// Judge checks claims as Verify checks those of a token, except times and signature. It calls
// observe, which may be nil, for each step. Judge is for tests of settings; its result proves
// nothing.
func (v *Verifier) Judge(claims Claims, observe func(Step)) (*Token, error) {
	x := &examination{token: &idToken{claims: claims}}
	err := v.check(x)
	return x.report(err, observe, "issuer", "audience", "subject")
}

// UnverifiedClaims returns the claims of a token of the right form, without any verification.
func UnverifiedClaims(rawIDToken string) (Claims, error) {
	token, err := parseToken(rawIDToken)
	if err != nil {
		return nil, err
	}
	return token.claims, nil
}

// examination is what the checks of one token have found so far.
type examination struct {
	step   string    // the current one
	now    time.Time // zero: the times are not checked
	token  *idToken
	entry  *entry
	result Token
	keys   *keys
}

// report calls observe, unless it is nil, with the steps so far, and returns the result. err is that
// of the last step.
func (x *examination) report(err error, observe func(Step), steps ...string) (*Token, error) {
	for _, step := range steps {
		if observe == nil {
			break
		}
		if err != nil && step == x.step {
			observe(Step{Name: step, Err: err})
			break
		}
		observe(Step{Name: step, Found: x.found(step)})
	}
	if err != nil {
		return nil, err
	}
	return &x.result, nil
}

// found returns what a step that has passed has found.
func (x *examination) found(step string) string {
	switch step {
	case "form":
		keyID := "no kid"
		if x.token.keyID != "" {
			keyID = "kid " + quote(x.token.keyID)
		}
		return fmt.Sprintf("a compact JWS of %d bytes, alg %s, %s, %d claims", len(x.token.raw), x.token.alg, keyID, len(x.token.claims))
	case "issuer":
		if x.entry.URL != "" {
			return fmt.Sprintf("iss is %s, which has an entry", quote(x.result.IssuerURL))
		}
		return fmt.Sprintf("iss is %s, which matches the wildcard %s", quote(x.result.IssuerURL), quote(x.entry.Pattern))
	case "times":
		return fmt.Sprintf("exp is %s, in %s", x.result.Expiry.UTC().Format(time.RFC3339), x.result.Expiry.Sub(x.now).Round(time.Second))
	case "audience":
		text := fmt.Sprintf("aud is %s; accepted is %s", quoteList(x.result.Audience), quoteList(x.entry.audiences()))
		if x.result.Profile != "" {
			text += ", and this one is of profile " + quote(x.result.Profile)
		}
		return text
	case "subject":
		return "sub is " + quote(x.result.Subject)
	case "keys":
		var ids []string
		for _, key := range x.keys.list {
			if key.id != "" && !slices.Contains(ids, key.id) {
				ids = append(ids, key.id)
			}
		}
		return fmt.Sprintf("%d keys of %s, kid %s; algorithms %s",
			len(x.keys.list), quote(x.keys.jwksURI), quoteList(ids), strings.Join(x.keys.algorithms, ", "))
	default:
		return "it verifies with " + x.token.alg
	}
}
