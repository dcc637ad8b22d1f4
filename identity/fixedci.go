// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/oidc"
)

// fixedCI is the rule of the CI types that are older than ci-provider. fixedcitypes.go defines
// their names and extensions; they accept only text.
type fixedCI struct {
	// These claims must be non-empty text; the optional ones may be missing, null or empty.
	required, optional []string
	// check refuses claims that are invalid for a reason that their texts do not show; may be nil.
	check func(claims oidc.Claims) error
	// fill sets extensions and returns the name.
	fill func(c map[string]string, e *certs.Extensions) (fixedName, error)
}

// fixedName is a SAN before it is formatted: the claims with the text between them, and the format
// of their concatenation. No two lists of claims have the same SAN.
type fixedName struct {
	parts  []part
	format func(raw string) (string, error)
	joined bool // format is url.JoinPath
}

func (r *fixedCI) identify(tok *oidc.Token, id *Identity) error {
	texts := make(map[string]string, len(r.required)+len(r.optional))
	var absent []string
	for _, name := range r.required {
		text, err := optionalText(tok.Claims, name)
		if err != nil {
			return err
		}
		if text == "" {
			absent = append(absent, name)
		}
		texts[name] = text
	}
	if absent != nil {
		return missingClaims(absent)
	}
	for _, name := range r.optional {
		text, err := optionalText(tok.Claims, name)
		if err != nil {
			return err
		}
		texts[name] = text
	}
	if r.check != nil {
		if err := r.check(tok.Claims); err != nil {
			return err
		}
	}
	name, err := r.fill(texts, &id.Extensions)
	if err != nil {
		return err
	}
	id.SAN, err = name.san(texts)
	return err
}

func (n *fixedName) san(texts map[string]string) (certs.SAN, error) {
	var raw string
	var claims []claim
	for _, p := range n.parts {
		if p.kind == literal {
			raw += p.text
			continue
		}
		raw += texts[p.text]
		claims = append(claims, claim{p.text, texts[p.text]})
	}
	if !isPrintable(raw) {
		return certs.SAN{}, sanRefusal(raw, "holds a control character, or is not UTF-8")
	}
	if hasDotSegment(raw) { // url.JoinPath would resolve it silently
		return certs.SAN{}, sanRefusal(raw, `has a path segment "." or ".."`)
	}
	formatted, err := n.format(raw)
	if err != nil {
		return certs.SAN{}, err
	}
	san, err := uriSAN(formatted)
	if err != nil {
		return certs.SAN{}, err
	}
	if err := checkDistinct(raw, san.Value, claims, n.joined); err != nil {
		return certs.SAN{}, err
	}
	return san, checkSeparate(raw, n.parts, texts, func(string) bool { return false })
}

// optionalText returns the claim name, which must be text if it is present and not null.
func optionalText(claims oidc.Claims, name string) (string, error) {
	switch v := claims[name].(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	default:
		return "", claimRefusal(name, v, "text")
	}
}

// joiner joins URLs for extensions, and keeps the first error, so that the assignments can follow
// each other.
type joiner struct{ err error }

func (j *joiner) join(base string, elements ...string) string {
	joined, err := joinPath(base, elements...)
	if err != nil && j.err == nil {
		j.err = err
	}
	return joined
}
