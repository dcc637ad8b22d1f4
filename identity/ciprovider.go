// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/internal/suggest"
	"github.com/mayfly-ca/mayfly/oidc"
)

// ciProvider is the rule of type ci-provider: SAN and extensions from the operator's
// templates, over the operator's constants, the token's claims and the operator's defaults,
// all as text.
type ciProvider struct {
	defaults   map[string]string
	constants  map[string]string
	san        *claimTemplate
	extensions []extensionTemplate // ascending by arc
	// names are the claims that some template names, and sanNames those that the SAN's
	// does, which must not be empty; both sorted.
	names, sanNames []string
	// unnamed tells that some template reads claims that it does not name.
	unnamed bool
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
	for _, name := range r.sanNames {
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
	id.SAN, err = uriSAN(san)
	return err
}

// values returns the texts that the templates read: the defaults, over them the claims, and
// over all the constants, so that no token can put a name of its own into a certificate
// where the operator has fixed one. A null claim is missing, and a default does not take its place: the token says that it
// has no value.
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
			null = append(null, name)
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
			return "", refusal.New(refusal.ClaimInvalid, "the token's claim %s is a number of more than 53 bits; the issuer must send it as text", quote(name))
		}
		return text, nil
	default:
		return "", claimRefusal(name, v, "text, a number or a boolean, as the issuer's templates read it")
	}
}

// numberText returns n in the decimal form that a float64 prints in. Readers of tokens
// decode numbers into float64, which rounds integers beyond 2^53, so that two runs would
// get one name: those are refused.
func numberText(n oidc.Number) (string, bool) {
	const limit = 1 << 53
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil || f < -limit || f > limit {
		return "", false
	}
	// 2^53+1 has been rounded to 2^53 by now.
	if (f == limit || f == -limit) && strings.TrimPrefix(string(n), "-") != strconv.Itoa(limit) {
		return "", false
	}
	return strconv.FormatFloat(f, 'f', -1, 64), true
}

// newCIProvider compiles the entry name of ci-issuer-metadata. It returns every mistake at
// once, and nil for the provider if there is one.
func newCIProvider(config CIProvider, path []string, compat bool) (r *ciProvider, warnings, errs []error) {
	r = &ciProvider{defaults: maps.Clone(config.DefaultTemplateValues), constants: maps.Clone(config.Constants)}
	tolerate := func(err error) {
		if compat {
			warnings = append(warnings, err)
		} else {
			errs = append(errs, err)
		}
	}
	compile := func(source string, path []string) *claimTemplate {
		t, err := parseTemplate(source)
		if err != nil {
			errs = append(errs, &keypath.Error{Path: path, Err: err})
			return nil
		}
		if t.reads.nested != "" {
			// Parses, and fails for every token.
			tolerate(keypath.Errorf(path, "a claim is text to a template and has nothing inside, so that %s refuses whatever token it is read for; a claim whose name has a dot is {{index . \"name.with.dot\"}}", quote(t.reads.nested)))
		}
		if !strings.Contains(source, "{{") && (strings.ContainsAny(source, "{} ") || strings.Contains(source, "://")) {
			warnings = append(warnings, keypath.Errorf(path, "without {{ this is the name of one claim, %s; text with claims in it is written as in {{.url}}/{{.ref}}", quote(source)))
		}
		if t.reads.controls {
			warnings = append(warnings, keypath.Errorf(path, "the template's own text holds a line break or another control character, which cannot enter a certificate: tokens will be refused; in YAML, end a block with >- or |-, or trim with {{- and -}}"))
		}
		r.names = append(append(r.names, t.reads.fields...), t.reads.indexed...)
		r.unnamed = r.unnamed || t.reads.unnamed
		return t
	}

	sanPath := at(path, "subject-alternative-name-template")
	if config.SubjectAlternativeNameTemplate == "" {
		errs = append(errs, keypath.Errorf(sanPath, "subject-alternative-name-template is missing; give one, such as https://ci.example/{{.project}}/{{.pipeline}}"))
	} else if r.san = compile(config.SubjectAlternativeNameTemplate, sanPath); r.san != nil {
		r.sanNames = sorted(r.names)
	}
	for _, key := range slices.Sorted(maps.Keys(config.ExtensionTemplates)) {
		source, path := config.ExtensionTemplates[key], at(path, "extension-templates", key)
		if source == "" || key == "issuer" || key == "subject" {
			continue // not set; or the token's own, whatever a template says
		}
		extension, ok := certs.ExtensionByKey(key)
		if !ok {
			tolerate(keypath.Errorf(path, "there is no extension %s%s", quote(key), suggest.DidYouMeanOr(key, extensionKeys(), "the names are")))
			continue
		}
		if t := compile(source, path); t != nil {
			r.extensions = append(r.extensions, extensionTemplate{extension, t})
		}
	}
	r.names = sorted(r.names)
	if len(errs) == 0 {
		errs = append(errs, r.checkConstants(config.Constants, at(path, "constants"))...)
	}
	for _, name := range slices.Sorted(maps.Keys(config.Constants)) {
		if _, ok := config.DefaultTemplateValues[name]; ok {
			errs = append(errs, keypath.Errorf(at(path, "constants", name), "%s has a default too, which could never count; remove one of the two", quote(name)))
		}
	}
	if len(errs) > 0 {
		return nil, warnings, errs
	}
	slices.SortFunc(r.extensions, func(a, b extensionTemplate) int { return int(a.extension.Arc) - int(b.extension.Arc) })
	return r, warnings, nil
}

// checkConstants reports the constants that no template reads: most likely misspelt, so that
// a claim would take the place of what was meant to be fixed.
func (r *ciProvider) checkConstants(constants map[string]string, path []string) (errs []error) {
	for _, name := range slices.Sorted(maps.Keys(constants)) {
		if !r.unnamed && !slices.Contains(r.names, name) {
			errs = append(errs, keypath.Errorf(at(path, name), "no template reads %s%s", quote(name), suggest.DidYouMeanOr(name, r.names, "the names that templates read are")))
		}
	}
	return errs
}

func sorted(names []string) []string {
	names = slices.Sorted(slices.Values(names))
	return slices.Compact(names)
}

func extensionKeys() []string {
	var keys []string
	for _, e := range certs.Table() {
		if e.Key != "" {
			keys = append(keys, e.Key)
		}
	}
	return keys
}
