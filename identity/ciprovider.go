// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// ciProvider is the rule of type ci-provider. It builds SAN and extensions by the operator's
// templates from the operator's constants, the token's claims and the operator's defaults, all as
// text.
type ciProvider struct {
	defaults   map[string]string
	constants  map[string]string
	san        *claimTemplate
	extensions []extensionTemplate // ascending by arc
	// names are the claims that some template names, sanNames those that the SAN's template names,
	// and required those of sanNames that must not be empty; all sorted.
	names, sanNames, required []string
	// optional are the claims with a default that the SAN's template shows.
	optional []string
	// unnamed states that some template reads claims that it does not name.
	unnamed bool
	// separate states that no two lists of claims may result in the same name.
	separate bool
}

type extensionTemplate struct {
	extension certs.Extension
	template  *claimTemplate
}

func (r *ciProvider) identify(tok *oidc.Token, id *Identity) error {
	values, err := r.values(tok.Claims)
	if err != nil {
		return err
	}
	absent := map[string]bool{}
	for _, name := range r.required {
		if values[name] == "" {
			absent[name] = true
		}
	}
	render := func(t *claimTemplate, what string) (string, error) {
		text, err := t.render(values)
		var fields missingFieldsError
		switch {
		case errors.As(err, &fields):
			for _, name := range fields {
				absent[name] = true
			}
		case errors.Is(err, errTooLong):
			return "", refusal.New(refusal.ClaimInvalid, "the token's claims make %s longer than %d bytes", what, maxText)
		case err != nil:
			return "", refusal.New(refusal.ClaimInvalid, "the issuer's template for %s does not work with the token's claims", what).Because(err)
		}
		return text, nil
	}
	san, err := render(r.san, "the subject alternative name")
	if err != nil {
		return err
	}
	for _, e := range r.extensions {
		if id.Extensions[e.extension.Arc], err = render(e.template, e.extension.Key); err != nil {
			return err
		}
	}
	if len(absent) > 0 {
		return missingClaims(slices.Sorted(maps.Keys(absent)))
	}
	id.SAN, err = r.name(san, values, tok.Claims)
	return err
}

// name returns the SAN of raw, which its template has rendered from values. It refuses raw if
// another value of one of the claims could have the same SAN.
func (r *ciProvider) name(raw string, values map[string]string, claims oidc.Claims) (certs.SAN, error) {
	san, err := uriSAN(raw)
	if err != nil {
		return certs.SAN{}, err
	}
	if r.san.full != nil { // its functions may print a control character as another one
		for _, name := range r.sanNames {
			if r.claimed(name, claims) && strings.ContainsFunc(values[name], unicode.IsControl) {
				return certs.SAN{}, claimRefusal(name, values[name], "text without control characters")
			}
		}
	}
	if !plain(raw, san.Value) {
		if err := r.checkDistinct(raw, san.Value, values, claims); err != nil {
			return certs.SAN{}, err
		}
	}
	if r.separate {
		if err := checkSeparate(raw, r.san.parts, values, r.fixed); err != nil {
			return certs.SAN{}, err
		}
	}
	return san, r.checkOptional(san, values, claims)
}

func (r *ciProvider) checkDistinct(raw, san string, values map[string]string, claims oidc.Claims) error {
	names := r.sanNames
	if r.san.reads.unnamed {
		names = slices.Sorted(maps.Keys(claims))
	}
	var inName []claim
	for _, name := range names {
		if r.claimed(name, claims) {
			inName = append(inName, claim{name, values[name]})
		}
	}
	if scheme, rest, _ := strings.Cut(raw, ":"); r.fixesScheme(len(scheme), values, claims) {
		raw = strings.ToLower(scheme) + ":" + rest
	}
	return checkDistinct(raw, san, inName, false)
}

// fixed reports whether the operator has set the value that templates read under the name.
func (r *ciProvider) fixed(name string) bool { _, ok := r.constants[name]; return ok }

// claimed reports whether the token decides the value that templates read under the name.
func (r *ciProvider) claimed(name string, claims oidc.Claims) bool {
	return claims[name] != nil && !r.fixed(name)
}

// fixesScheme reports whether the operator fixes the first n octets of the name.
func (r *ciProvider) fixesScheme(n int, values map[string]string, claims oidc.Claims) bool {
	for _, p := range r.san.lead() {
		text := p.text
		if p.kind != literal {
			if r.claimed(p.text, claims) {
				return false
			}
			text = values[p.text]
		}
		if n -= len(text); n < 0 {
			return true
		}
	}
	return false
}

// checkOptional refuses a claim that results in the same SAN as its default.
func (r *ciProvider) checkOptional(san certs.SAN, values map[string]string, claims oidc.Claims) error {
	for _, name := range r.optional {
		text, standard := values[name], r.defaults[name]
		if !r.claimed(name, claims) || text == standard {
			continue
		}
		values[name] = standard
		raw, err := r.san.render(values)
		values[name] = text
		if err != nil {
			continue
		}
		if other, err := uriSAN(raw); err == nil && other == san {
			return refusal.New(refusal.ClaimInvalid, "the token's claim %s, %s, makes the name that tokens without the claim have", quote(name), quote(text))
		}
	}
	return nil
}

// values returns the texts that the templates read. Claims override defaults, and constants
// override both, so that no token can replace a name in a certificate that the operator has fixed.
// A null claim is missing: its default applies, if it has one.
func (r *ciProvider) values(claims oidc.Claims) (map[string]string, error) {
	values := make(map[string]string, len(r.defaults)+len(r.names))
	maps.Copy(values, r.defaults)
	names := r.names
	if r.unnamed {
		names = slices.Sorted(maps.Keys(claims))
	}
	var null []string
	for _, name := range names {
		v, present := claims[name]
		if _, fixed := r.constants[name]; fixed || !present {
			continue
		}
		if v == nil {
			if _, ok := r.defaults[name]; !ok {
				null = append(null, name)
			}
			continue
		}
		text, err := claimText(name, v)
		if err != nil {
			return nil, err
		}
		values[name] = text
	}
	if null != nil {
		return nil, missingClaims(null)
	}
	maps.Copy(values, r.constants)
	return values, nil
}

// claimText returns a claim's value as templates see it.
func claimText(name string, v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case oidc.Number:
		text, ok := numberText(v)
		if !ok {
			return "", refusal.New(refusal.ClaimInvalid, "the token's claim %s is a number of more than 53 bits or 17 digits; the issuer must send it as text", quote(name))
		}
		return text, nil
	default:
		return "", claimRefusal(name, v, "text, a number or a boolean, as the issuer's templates read it")
	}
}

// numberText returns n in the decimal form that a float64 prints in. Readers of tokens decode
// numbers into float64, which rounds, so that two numbers would have one text. numberText refuses
// numbers that rounding changes, and all beyond 2^53.
func numberText(n oidc.Number) (string, bool) {
	const limit = 1 << 53
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil || f < -limit || f > limit {
		return "", false
	}
	text := strconv.FormatFloat(f, 'f', -1, 64)
	digits, exponent := decimal(string(n))
	printed, scale := decimal(text)
	return text, digits == printed && exponent == scale
}

// decimal returns the significant digits of a JSON number, and the power of ten of the last one.
// Only numbers that are equal, except for their sign, have both equal.
func decimal(number string) (digits string, exponent int) {
	mantissa, power, _ := strings.Cut(strings.ToLower(strings.TrimPrefix(number, "-")), "e")
	exponent, _ = strconv.Atoi(power) // 0 without a power; if out of range, the number is 0 as a float64, or refused
	whole, fraction, _ := strings.Cut(mantissa, ".")
	exponent -= len(fraction)
	digits = strings.TrimLeft(whole+fraction, "0")
	trimmed := strings.TrimRight(digits, "0")
	if trimmed == "" {
		return "", 0
	}
	return trimmed, exponent + len(digits) - len(trimmed)
}
