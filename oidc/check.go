// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// notBeforeLeeway is how far in the future `nbf` may be; clocks differ. `exp` has no leeway.
const notBeforeLeeway = 5 * time.Minute

// maxSeconds bounds NumericDates to what a float64 holds exactly (RFC 7493, section 2.2). Greater ones
// overflow in go-oidc.
const maxSeconds = 1 << 53

// check checks the registered claims of x.token (RFC 7519, section 4.1, and OpenID Connect Core 1.0,
// section 3.1.3.7) at x.now. It fills x.result, of which only the signature remains unchecked, and
// x.entry.
func (v *Verifier) check(x *examination) (err error) {
	x.step = "issuer"
	if x.result.IssuerURL, err = x.token.text("iss"); err != nil {
		return err
	}
	if x.entry, err = v.entryOf(x.result.IssuerURL); err != nil {
		return err
	}
	x.result.Entry, x.result.Claims = x.entry.Key, x.token.claims
	if !x.now.IsZero() {
		x.step = "times"
		if x.result.Expiry, err = x.token.checkTimes(x.now); err != nil {
			return err
		}
	}
	x.step = "audience"
	if x.result.Audience, err = x.token.audience(); err != nil {
		return err
	}
	if x.result.Profile, err = x.entry.profileFor(x.result.Audience, x.result.IssuerURL); err != nil {
		return err
	}
	x.step = "subject"
	x.result.Subject, err = x.token.text("sub")
	return err
}

// checkTimes checks exp, nbf and iat, and returns exp.
func (t *idToken) checkTimes(now time.Time) (expiry time.Time, err error) {
	if t.claims["exp"] == nil {
		return time.Time{}, refusal.New(refusal.ClaimMissing, "the ID token has no claim exp, the time when it expires")
	}
	if expiry, err = t.date("exp"); err != nil {
		return time.Time{}, err
	}
	if expiry.Before(now) {
		return time.Time{}, refusal.New(refusal.TokenExpired,
			"the ID token expired %s ago, at %s; get a new one for each request",
			now.Sub(expiry).Round(time.Second), expiry.UTC().Format(time.RFC3339))
	}
	if _, ok := t.claims["nbf"]; ok {
		notBefore, err := t.date("nbf")
		if err != nil {
			return time.Time{}, err
		}
		if now.Add(notBeforeLeeway).Before(notBefore) {
			return time.Time{}, refusal.New(refusal.TokenNotYetValid,
				"the ID token is valid from %s on (nbf), in %s; clocks may differ by at most %s",
				notBefore.UTC().Format(time.RFC3339), notBefore.Sub(now).Round(time.Second), notBeforeLeeway)
		}
	}
	if _, ok := t.claims["iat"]; ok {
		if _, err := t.date("iat"); err != nil {
			return time.Time{}, err
		}
	}
	return expiry, nil
}

// date returns the claim name as a NumericDate in seconds since 1970, without its fraction.
func (t *idToken) date(name string) (time.Time, error) {
	number, ok := t.claims[name].(Number)
	seconds, err := strconv.ParseFloat(string(number), 64)
	if !ok || err != nil || math.Abs(seconds) >= maxSeconds {
		return time.Time{}, refusal.New(refusal.TokenMalformed,
			"the claim %s is %s; a number of seconds since 1970 is expected", name, quote(fmt.Sprint(t.claims[name])))
	}
	return time.Unix(int64(seconds), 0), nil
}

// audience returns the claim `aud`, a string or an array of strings; none if it is missing.
func (t *idToken) audience() ([]string, error) {
	switch aud := t.claims["aud"].(type) {
	case nil:
		return nil, nil
	case string:
		return []string{aud}, nil
	case []any:
		list := make([]string, 0, len(aud))
		for _, element := range aud {
			s, ok := element.(string)
			if !ok {
				return nil, refusal.New(refusal.TokenMalformed, "the claim aud has an element that is not a string")
			}
			list = append(list, s)
		}
		return list, nil
	default:
		return nil, refusal.New(refusal.TokenMalformed, "the claim aud is neither a string nor an array of strings")
	}
}

// profileFor returns the profile that has one of the audiences found; "" is the entry itself. It
// refuses a token for two of them, because either choice would guess the caller's identity.
func (e *entry) profileFor(found []string, issuerURL string) (string, error) {
	profile, matched := "", false
	for _, audience := range found {
		p, ok := e.byAudience[audience]
		if !ok {
			continue
		}
		if matched && p != profile {
			return "", refusal.New(refusal.AudienceMismatch, "the ID token's audience is %s, which stand for two profiles of issuer %s; get a token for one of them",
				quoteList(found), quote(issuerURL))
		}
		profile, matched = p, true
	}
	if matched {
		return profile, nil
	}
	text := "empty"
	if len(found) > 0 {
		text = quoteList(found)
	}
	return "", refusal.New(refusal.AudienceMismatch, "the ID token's audience is %s; from issuer %s, %s is expected",
		text, quote(issuerURL), quoteList(e.allAudiences()))
}

// allAudiences returns the audiences of the entry and its profiles.
func (e *entry) allAudiences() []string {
	all := slices.Clone(e.Audiences)
	for _, p := range e.Profiles {
		all = append(all, p.Audiences...)
	}
	return all
}

// text returns a claim that must be a non-empty string.
func (t *idToken) text(name string) (string, error) {
	switch value := t.claims[name].(type) {
	case string:
		if value == "" {
			return "", refusal.New(refusal.ClaimMissing, "the ID token's claim %s is empty", name)
		}
		return value, nil
	case nil:
		return "", refusal.New(refusal.ClaimMissing, "the ID token has no claim %s", name)
	default:
		return "", refusal.New(refusal.TokenMalformed, "the ID token's claim %s is not a string", name)
	}
}
