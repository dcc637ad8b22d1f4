// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"strconv"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// notBeforeLeeway is how far in the future `nbf` may be; clocks differ. `exp` has no leeway.
const notBeforeLeeway = 5 * time.Minute

// maxSeconds bounds NumericDates to what a float64 holds exactly (RFC 7493, section 2.2),
// which is far from overflowing time.Time.
const maxSeconds = 1 << 53

// check checks the registered claims (RFC 7519, section 4.1, and OpenID Connect Core 1.0, section
// 3.1.3.7) at the time now. It returns the resulting token, of which only the signature remains
// unchecked, and the entry of its issuer. With the zero time, check skips the times.
func (v *Verifier) check(t *idToken, now time.Time, steps tracer) (verified *Token, e *entry, err error) {
	verified = &Token{Claims: t.claims}
	if verified.IssuerURL, err = t.text("iss"); err == nil {
		e, err = v.entryOf(verified.IssuerURL)
	}
	steps.issuer(verified.IssuerURL, e, err)
	if err != nil {
		return nil, nil, err
	}
	verified.Entry = e.Key
	if !now.IsZero() {
		verified.Expiry, err = t.checkTimes(now)
		steps.times(verified.Expiry, now, err)
		if err != nil {
			return nil, nil, err
		}
	}
	if verified.Audience, err = t.audience(); err == nil {
		verified.Profile, err = e.profileFor(verified.Audience, verified.IssuerURL)
	}
	steps.audience(verified, e, err)
	if err != nil {
		return nil, nil, err
	}
	verified.Subject, err = t.text("sub")
	steps.subject(verified.Subject, err)
	if err != nil {
		return nil, nil, err
	}
	return verified, e, nil
}

// checkTimes checks exp, nbf and iat, and returns exp.
func (t *idToken) checkTimes(now time.Time) (expiry time.Time, err error) {
	if t.claims["exp"] == nil {
		return time.Time{}, refusal.New(refusal.ClaimMissing, "the ID token has no claim exp, which says when it expires")
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
				"the ID token is valid from %s on (nbf), in %s; at most %s are bridged",
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
	if !ok {
		return time.Time{}, refusal.New(refusal.TokenMalformed,
			"the claim %s is not a number; wanted are seconds since 1970", name)
	}
	seconds, ok := wholeSeconds(string(number))
	if !ok {
		return time.Time{}, refusal.New(refusal.TokenMalformed,
			"the claim %s is %s, which is out of range; wanted are seconds since 1970", name, quote(string(number)))
	}
	return time.Unix(seconds, 0), nil
}

// wholeSeconds reads the text of a JSON number as go-oidc does. It refuses numbers beyond
// maxSeconds, which overflow in go-oidc.
func wholeSeconds(text string) (int64, bool) {
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || f > maxSeconds || f < -maxSeconds {
			return 0, false
		}
		seconds = int64(f)
	}
	return seconds, -maxSeconds <= seconds && seconds <= maxSeconds
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
	if len(found) == 0 {
		return "", refusal.New(refusal.AudienceMismatch, "the ID token has no audience; from issuer %s wanted is %s",
			quote(issuerURL), quoteList(e.allAudiences()))
	}
	return "", refusal.New(refusal.AudienceMismatch, "the ID token's audience is %s; from issuer %s wanted is %s",
		quoteList(found), quote(issuerURL), quoteList(e.allAudiences()))
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
