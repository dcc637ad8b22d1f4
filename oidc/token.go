// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// MaxTokenSize is the largest ID token, in bytes, without the white space around it.
const MaxTokenSize = 16 << 10

// idToken is a token of the right shape. No part of it is verified.
type idToken struct {
	raw       string // the three segments, without white space around them
	protected string // the first segment
	alg       string // supportedAlgorithm accepts it
	keyID     string // `kid`; "" if there is none
	claims    Claims
	payload   []byte // the JSON text of the claims that go-oidc reads
	signature []byte
}

// parseToken checks the size and then the shape of a token, and decodes it.
func parseToken(raw string) (*idToken, error) {
	raw = strings.TrimSpace(raw)
	if raw == "" {
		return nil, refusal.New(refusal.TokenMissing, "the request has no ID token")
	}
	// Both checks run before any allocation for the segments (CVE-2025-66506).
	if len(raw) > MaxTokenSize {
		return nil, refusal.New(refusal.TokenMalformed,
			"the ID token has %d bytes; at most %d are accepted", len(raw), MaxTokenSize)
	}
	if dots := strings.Count(raw, "."); dots != 2 {
		return nil, refusal.New(refusal.TokenMalformed,
			"the ID token has %d segments; a compact JWS has three, separated by dots", dots+1)
	}
	protected, rest, _ := strings.Cut(raw, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	token, parser := &idToken{raw: raw, protected: protected}, new(claimsParser)
	header, err := parser.decode("header", protected)
	if err != nil {
		return nil, err
	}
	if err := token.readHeader(header); err != nil {
		return nil, err
	}
	if token.claims, err = parser.decode("claims", payload); err != nil {
		return nil, err
	}
	token.payload = append(parser.registered, '}')
	if signature == "" {
		return nil, refusal.New(refusal.SignatureInvalid, "the ID token has no signature")
	}
	if token.signature, err = decodeSegment(signature); err != nil {
		return nil, refusal.New(refusal.TokenMalformed, "the ID token's signature is not base64url without padding").Because(err)
	}
	return token, nil
}

// readHeader reads `alg` and `kid` from a JOSE header (RFC 7515, section 4). The members jku, jwk,
// x5u and x5c, by which a token would name its own key, have no effect.
//
// It refuses crit, as this package understands no extensions (section 4.1.11), and b64, which some
// verifiers obey without crit (RFC 7797, section 6).
func (t *idToken) readHeader(header Claims) error {
	_, critical := header["crit"]
	b64, hasB64 := header["b64"]
	keyID, hasKeyID := header["kid"]
	alg, hasAlg := header["alg"].(string)
	t.alg = alg
	t.keyID, _ = keyID.(string)
	switch {
	case critical || hasB64 && b64 != true:
		return refusal.New(refusal.TokenMalformed, "the ID token's header has the member crit or b64; no such extensions are supported")
	case !hasAlg || hasKeyID && keyID != t.keyID:
		return refusal.New(refusal.TokenMalformed, "the ID token's header has no alg, or an alg or a kid that is not a string")
	case !supportedAlgorithm(alg):
		return refusal.New(refusal.SignatureInvalid, "the ID token's alg is %s; signatures of %s are accepted", quote(alg), supportedAlgorithms)
	}
	return nil
}

// decode decodes the part of a token that is a JSON object. The details of an error are in its cause,
// because they may quote the part.
func (p *claimsParser) decode(part, segment string) (object Claims, err error) {
	text, err := decodeSegment(segment)
	if err == nil {
		object, err = p.parse(text)
	}
	if err != nil {
		return nil, refusal.New(refusal.TokenMalformed,
			"the ID token's %s cannot be read; base64url without padding of one JSON object in UTF-8 is expected, "+
				"in which no member occurs twice, not even in another case", part).Because(err)
	}
	return object, nil
}

// decodeSegment decodes base64url without padding, line breaks or non-zero trailing bits (RFC 7515,
// section 2), so that no two texts encode one token.
func decodeSegment(segment string) ([]byte, error) {
	if strings.IndexByte(segment, '\n') >= 0 || strings.IndexByte(segment, '\r') >= 0 { // package base64 skips them
		return nil, errors.New("a line break")
	}
	return base64.RawURLEncoding.Strict().DecodeString(segment)
}

// maxQuoted is the number of characters of a foreign string that a message repeats.
const maxQuoted = 100

// quote returns s for a message to the client: in double quotes, with non-printing characters
// escaped, and cut to maxQuoted characters.
func quote(s string) string {
	text := fmt.Sprintf("%.*q", maxQuoted, s)
	if utf8.RuneCountInString(s) > maxQuoted {
		text += "…"
	}
	return text
}

// quoteList returns up to three of list, quoted as by quote, and the number of the others.
func quoteList(list []string) string {
	var quoted []string
	for _, s := range list[:min(len(list), 3)] {
		quoted = append(quoted, quote(s))
	}
	text := strings.Join(quoted, ", ")
	if len(list) > 3 {
		text += fmt.Sprintf(" and %d more", len(list)-3)
	}
	return text
}

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
	if x.entry.Disabled {
		x.disabled = refusal.New(refusal.IssuerNotConfigured,
			"the operator of this CA has disabled the token's issuer %s; no token of it gets a certificate until the operator enables it again", quote(x.result.IssuerURL))
		if !x.judged {
			return x.disabled
		}
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
	var dates [3]time.Time
	for i, name := range [...]string{"exp", "nbf", "iat"} {
		if _, ok := t.claims[name]; ok {
			if dates[i], err = t.date(name); err != nil {
				return time.Time{}, err
			}
		}
	}
	expiry, notBefore := dates[0], dates[1]
	switch {
	case expiry.Before(now):
		return time.Time{}, refusal.New(refusal.TokenExpired,
			"the ID token expired %s, at %s; get a new one for each request",
			printable.Relative(expiry, now), expiry.UTC().Format(time.RFC3339))
	case now.Add(notBeforeLeeway).Before(notBefore): // zero without nbf
		return time.Time{}, refusal.New(refusal.TokenNotYetValid,
			"the ID token is valid from %s on (nbf), %s; clocks may differ by at most %s",
			notBefore.UTC().Format(time.RFC3339), printable.Relative(notBefore, now), notBeforeLeeway)
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
func (t *idToken) audience() (list []string, err error) {
	elements, ok := t.claims["aud"].([]any)
	if !ok && t.claims["aud"] != nil {
		elements = []any{t.claims["aud"]}
	}
	for _, element := range elements {
		text, ok := element.(string)
		if !ok {
			return nil, refusal.New(refusal.TokenMalformed, "the claim aud is neither a string nor an array of strings")
		}
		list = append(list, text)
	}
	return list, nil
}

// profileFor returns the profile that has one of the audiences found; "" is the entry itself. It
// refuses a token for two of them, because either choice would guess the caller's identity.
func (e *entry) profileFor(found []string, issuerURL string) (profile string, err error) {
	matches := 0
	for _, audience := range found {
		if p, ok := e.byAudience[audience]; ok && (matches == 0 || p != profile) {
			profile = p
			matches++
		}
	}
	switch matches {
	case 1:
		return profile, nil
	case 0:
		return "", refusal.New(refusal.AudienceMismatch, "the ID token's audience is [%s]; from issuer %s, %s is expected",
			quoteList(found), quote(issuerURL), quoteList(e.audiences()))
	default:
		return "", refusal.New(refusal.AudienceMismatch, "the ID token's audience is [%s], which selects two profiles of issuer %s; get a token for one of them",
			quoteList(found), quote(issuerURL))
	}
}

// audiences returns the accepted audiences of the entry and its profiles.
func (e *entry) audiences() []string { return slices.Sorted(maps.Keys(e.byAudience)) }

// text returns a claim that must be a non-empty string.
func (t *idToken) text(name string) (string, error) {
	value, ok := t.claims[name].(string)
	switch {
	case t.claims[name] == nil, ok && value == "":
		return "", refusal.New(refusal.ClaimMissing, "the ID token has no claim %s, or an empty one", name)
	case !ok:
		return "", refusal.New(refusal.TokenMalformed, "the ID token's claim %s is not a string", name)
	}
	return value, nil
}

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
// observe, which may be nil, for each step. A disabled entry fails the step and does not end Judge.
// Judge is for tests of settings; its result proves nothing.
func (v *Verifier) Judge(claims Claims, observe func(Step)) (*Token, error) {
	x := &examination{token: &idToken{claims: claims}, judged: true}
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
	step     string    // the current one
	now      time.Time // zero: the times are not checked
	judged   bool      // by Judge
	token    *idToken
	entry    *entry
	disabled error // the refusal of a disabled entry
	result   Token
	keys     *keys
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
		passed := Step{Name: step, Found: x.found(step)}
		if step == "issuer" {
			passed.Err = x.disabled
		}
		observe(passed)
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
		return fmt.Sprintf("a compact JWS of %d bytes, alg %s, kid %s, %d claims", len(x.token.raw), x.token.alg, quote(x.token.keyID), len(x.token.claims))
	case "issuer":
		return fmt.Sprintf("iss is %s, of the entry %s", quote(x.result.IssuerURL), quote(x.entry.Key))
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
			ids = append(ids, key.id)
		}
		return fmt.Sprintf("%d keys of %s, kid %s; algorithms %s", len(ids), quote(x.keys.jwksURI), quoteList(ids), strings.Join(x.keys.algorithms, ", "))
	default:
		return "it verifies with " + x.token.alg
	}
}
