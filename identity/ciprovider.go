// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// ciProvider is the rule of type ci-provider and of the older CI types. It builds SAN and extensions
// by templates from constants, the token's claims and defaults, all as text.
type ciProvider struct {
	defaults   map[string]string
	constants  map[string]string
	san        *claimTemplate
	extensions []extensionTemplate // ascending by arc
	// names are the claims of all templates, sanNames of the SAN's; required ones must not be empty.
	names, sanNames, required []string
	// optional are the claims with a default that the SAN's template shows.
	optional []string
	// unnamed states that some template reads claims that it does not name.
	unnamed bool
	// separate states that no two lists of claims may result in the same name.
	separate bool
	// older is the issuer type if it is one of oldertypes.yaml; otherwise "".
	older string
}

type extensionTemplate struct {
	extension certs.Extension
	template  *claimTemplate
}

func (r *ciProvider) identify(tok *oidc.Token, id *Identity) error {
	values, absent, err := r.values(tok.Claims)
	if err != nil {
		return err
	}
	if r.older != "" {
		if len(absent) > 0 {
			return missingClaims(absent.sorted())
		}
		if err := prepareOlder(r.older, tok.Claims, values); err != nil {
			return err
		}
	}
	raw, err := r.render(r.san, "the subject alternative name", values, absent)
	if err != nil {
		return err
	}
	for _, e := range r.extensions {
		text, err := r.render(e.template, e.extension.Key, values, absent)
		if err == nil && r.older != "" {
			text, _, err = olderURL(e.template.parts, text, values)
		}
		if err != nil {
			return err
		}
		id.Extensions[e.extension.Arc] = text
	}
	if len(absent) > 0 {
		return missingClaims(absent.sorted())
	}
	id.SAN, err = r.name(raw, values, tok.Claims)
	return err
}

// render returns the template's result. It adds the claims that it lacks to absent.
func (r *ciProvider) render(t *claimTemplate, what string, values map[string]string, absent set) (string, error) {
	text, missing, err := t.render(values)
	if err != nil {
		return "", refusal.New(refusal.ClaimInvalid, "the issuer's template for %s does not work with the token's claims, or makes more than %d bytes", what, maxText).Because(err)
	}
	for _, name := range missing {
		absent[name] = true
	}
	return text, nil
}

// name returns the SAN of raw, which its template has rendered from values. It refuses raw if another
// value of one of the claims could have the same SAN.
func (r *ciProvider) name(raw string, values map[string]string, claims oidc.Claims) (certs.SAN, error) {
	formatted, joined := raw, false
	if r.older != "" {
		var err error
		if formatted, joined, err = olderURL(r.san.parts, raw, values); err != nil {
			return certs.SAN{}, err
		}
	}
	names := r.sanNames
	if r.san.reads.unnamed {
		names = slices.Sorted(maps.Keys(claims))
	}
	var inName []claim
	for _, name := range names {
		if !r.claimed(name, claims) {
			continue
		}
		// The functions of a template may print a control character as another one.
		if r.san.full != nil && strings.ContainsFunc(values[name], unicode.IsControl) {
			return certs.SAN{}, claimRefusal(name, values[name], "text without control characters")
		}
		inName = append(inName, claim{name, values[name]})
	}
	san, err := distinctSAN(raw, formatted, inName, joined)
	if err != nil {
		return certs.SAN{}, err
	}
	if r.separate {
		if err := checkSeparate(raw, r.san.parts, values, r.constants); err != nil {
			return certs.SAN{}, err
		}
	}
	return san, r.checkOptional(san, values, claims)
}

// fixed reports whether the operator has set the value that templates read under the name.
func (r *ciProvider) fixed(name string) bool { _, ok := r.constants[name]; return ok }

// claimed reports whether the token decides the value that templates read under the name.
func (r *ciProvider) claimed(name string, claims oidc.Claims) bool {
	return claims[name] != nil && !r.fixed(name)
}

// checkOptional refuses a claim that results in the same SAN as its default.
func (r *ciProvider) checkOptional(san certs.SAN, values map[string]string, claims oidc.Claims) error {
	for _, name := range r.optional {
		text, standard := values[name], r.defaults[name]
		if !r.claimed(name, claims) || text == standard {
			continue
		}
		values[name] = standard
		raw, absent, err := r.san.render(values)
		values[name] = text
		if err != nil || absent != nil {
			continue
		}
		if other, err := uriSAN(raw); err == nil && other == san {
			return refusal.New(refusal.ClaimInvalid, "the token's claim %s, %s, makes the name that tokens without the claim have", quote(name), quote(text))
		}
	}
	return nil
}

// values returns the texts that the templates read, and the required claims that are absent. Claims
// override defaults, and constants override both, so that no token can replace a name in a
// certificate that the operator has fixed. A null claim is missing: its default applies, if it has
// one. For an older type, an empty claim is missing too.
func (r *ciProvider) values(claims oidc.Claims) (values map[string]string, absent set, err error) {
	values, absent = make(map[string]string, len(r.defaults)+len(r.names)), set{}
	maps.Copy(values, r.defaults)
	names := r.names
	if r.unnamed {
		names = slices.Sorted(maps.Keys(claims))
	}
	for _, name := range names {
		v, present := claims[name]
		if !present || r.fixed(name) {
			continue
		}
		if v == nil || v == "" && r.older != "" {
			if _, ok := r.defaults[name]; !ok {
				absent[name] = true
			}
			continue
		}
		if _, ok := v.(string); !ok && r.older != "" {
			return nil, nil, claimRefusal(name, v, "text")
		}
		if values[name], err = claimText(name, v); err != nil {
			return nil, nil, err
		}
	}
	maps.Copy(values, r.constants)
	for _, name := range r.required {
		if values[name] == "" {
			absent[name] = true
		}
	}
	return values, absent, nil
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
