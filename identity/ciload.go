// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"maps"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/suggest"
	"github.com/mayfly-ca/mayfly/oidc"
)

// ciLoader compiles one entry of ci-issuer-metadata.
type ciLoader struct {
	*ciProvider
	path           []string
	compat         bool
	warnings, errs []error
}

// newCIProvider compiles the entry at path. It returns every mistake at once; the provider is nil
// if there is a mistake.
func newCIProvider(config CIProvider, path []string, compat bool) (r *ciProvider, warnings, errs []error) {
	l := &ciLoader{ciProvider: &ciProvider{defaults: maps.Clone(config.DefaultTemplateValues), constants: maps.Clone(config.Constants)}, path: path, compat: compat}
	l.compileName(config)
	for _, key := range slices.Sorted(maps.Keys(config.ExtensionTemplates)) {
		source, path := config.ExtensionTemplates[key], at(path, "extension-templates", key)
		if source == "" || key == "issuer" || key == "subject" {
			continue // not set; or the token's own, whatever a template states
		}
		extension, ok := certs.ExtensionByKey(key)
		if !ok {
			l.tolerate(keypath.Errorf(path, "there is no extension %s%s", quote(key), suggest.DidYouMeanOr(key, extensionKeys(), "the names are")))
			continue
		}
		if t := l.compile(source, path); t != nil {
			l.extensions = append(l.extensions, extensionTemplate{extension, t})
		}
	}
	l.names = sorted(l.names)
	if len(l.errs) == 0 {
		l.errs = append(l.errs, l.checkConstants(config.Constants, at(path, "constants"))...)
	}
	for _, name := range slices.Sorted(maps.Keys(config.Constants)) {
		if _, ok := config.DefaultTemplateValues[name]; ok {
			l.errs = append(l.errs, keypath.Errorf(at(path, "constants", name), "%s has a default too, which could never count; remove one of the two", quote(name)))
		}
	}
	if len(l.errs) == 0 {
		l.checkName(config.DistinctClaims)
	}
	if len(l.errs) > 0 {
		return nil, l.warnings, l.errs
	}
	slices.SortFunc(l.extensions, func(a, b extensionTemplate) int { return int(a.extension.Arc) - int(b.extension.Arc) })
	return l.ciProvider, l.warnings, nil
}

// tolerate reports a fault that the peer tolerates.
func (l *ciLoader) tolerate(err error) {
	if l.compat {
		l.warnings = append(l.warnings, err)
	} else {
		l.errs = append(l.errs, err)
	}
}

func (l *ciLoader) warn(path []string, format string, args ...any) {
	l.warnings = append(l.warnings, keypath.Errorf(path, format, args...))
}

// compile returns nil for a template that does not parse.
func (l *ciLoader) compile(source string, path []string) *claimTemplate {
	t, err := parseTemplate(source)
	if err != nil {
		l.errs = append(l.errs, &keypath.Error{Path: path, Err: err})
		return nil
	}
	if t.reads.nested != "" {
		// The template parses, but fails for every token.
		l.tolerate(keypath.Errorf(path, "a claim is text to a template and has nothing inside, so that %s refuses whatever token it is read for; a claim whose name has a dot is {{index . \"name.with.dot\"}}", quote(t.reads.nested)))
	}
	if !strings.Contains(source, "{{") && (strings.ContainsAny(source, "{} ") || strings.Contains(source, "://")) {
		l.warn(path, "without {{ this is the name of one claim, %s; text with claims in it is written as in {{.url}}/{{.ref}}", quote(source))
	}
	if t.reads.controls {
		l.warn(path, "the template's own text holds a line break or another control character, which cannot enter a certificate: tokens will be refused; in YAML, end a block with >- or |-, or trim with {{- and -}}")
	}
	l.names = append(append(l.names, t.reads.fields...), t.reads.indexed...)
	l.unnamed = l.unnamed || t.reads.unnamed
	return t
}

// compileName compiles the SAN's template.
func (l *ciLoader) compileName(config CIProvider) {
	path := at(l.path, "subject-alternative-name-template")
	if config.SubjectAlternativeNameTemplate == "" {
		l.errs = append(l.errs, keypath.Errorf(path, "subject-alternative-name-template is missing; give one, such as https://ci.example/{{.project}}/{{.pipeline}}"))
		return
	}
	if l.san = l.compile(config.SubjectAlternativeNameTemplate, path); l.san == nil {
		return
	}
	l.sanNames = sorted(l.names)
	for _, name := range l.sanNames {
		standard, ok := l.defaults[name]
		needed := slices.Contains(l.san.reads.needed, name)
		if needed || !ok && !l.fixed(name) {
			l.required = append(l.required, name)
		}
		if needed && ok && standard == "" {
			l.warn(path, "the name needs the claim %s, so that its empty default does not count: a token without the claim is refused", quote(name))
		}
	}
}

// checkName reports faults of the SAN's template by which no token gets a name, or two callers get
// one.
func (l *ciLoader) checkName(distinct bool) {
	path := at(l.path, "subject-alternative-name-template")
	for _, name := range l.san.reads.shown {
		// A token without a required claim has no name that another could share.
		if standard, ok := l.defaults[name]; ok && (standard != "" || !slices.Contains(l.required, name)) {
			l.optional = append(l.optional, name)
		}
	}
	if l.san.full != nil {
		l.checkExpressions(distinct, path)
		return
	}
	l.checkSeparators(distinct, path)
	if len(l.errs) > 0 || l.san.reads.controls {
		return // reported, with its cause
	}
	if err := l.refusesAll(); err != nil {
		l.tolerate(keypath.Errorf(path, "no token gets a name by this template: with every text that was tried for its claims, %w", err))
	}
}

// checkExpressions warns of what mayfly cannot show for a template with conditions or functions:
// that different claims make different names.
func (l *ciLoader) checkExpressions(distinct bool, path []string) {
	if distinct {
		l.errs = append(l.errs, keypath.Errorf(path, "distinct-claims is for a template of text, {{.claim}} and {{index . \"claim\"}}; this one has more"))
		return
	}
	for _, name := range l.sanNames {
		if !l.fixed(name) && !slices.Contains(l.san.reads.shown, name) {
			l.warn(path, "the name does not show the claim %s, but what a condition makes of it: tokens with different values could get the same name", quote(name))
		}
	}
	if len(l.sanNames) > 1 || l.unnamed {
		l.warn(path, "the template has conditions or functions, so that mayfly cannot check that different claims make different names; check it with tests beside the issuer")
	}
}

// checkSeparators reports the claims that the name does not keep apart, unless a token is refused in
// that case.
func (l *ciLoader) checkSeparators(distinct bool, path []string) {
	l.separate = distinct || isShippedName(l.san.parts)
	for _, p := range pairs(l.san.parts, l.constants, l.fixed) {
		standard := l.defaults[p.first]
		switch {
		case p.separator == "":
			l.inseparable(distinct, path, "nothing separates the claims %s and %s in the name: other claims could make the same name; put a text between them that the first cannot contain", quote(p.first), quote(p.second))
		case l.separate && standard != "" && !ends(standard+p.separator, standard, p.separator):
			l.inseparable(distinct, path, "the default of %s holds %s, which separates it from the claim %s in the name: other claims could make the same name; make it a constant", quote(p.first), quote(p.separator), quote(p.second))
		case !l.separate:
			l.warn(path, "the claim %s may contain %s, which separates it from the claim %s in the name: other claims could make the same name; with distinct-claims: true such a token is refused", quote(p.first), quote(p.separator), quote(p.second))
		}
	}
}

// inseparable reports claims that distinct-claims cannot keep apart.
func (l *ciLoader) inseparable(distinct bool, path []string, format string, args ...any) {
	err := keypath.Errorf(path, format, args...)
	if distinct {
		l.errs = append(l.errs, err)
	} else {
		l.separate = false
		l.warnings = append(l.warnings, err)
	}
}

// refusesAll returns why no token gets a name by a template of text and claims: the first refusal
// if all combinations of the texts are refused, otherwise nil. A template with more than four claims
// is not tried.
func (r *ciProvider) refusesAll() (why error) {
	texts := []string{"a", "https://a.example", "1", "//a.example", "a.example", "::1", "2f", ""}
	var free []string
	for _, name := range r.sanNames {
		if r.defaults[name] == "" && !r.fixed(name) {
			free = append(free, name)
		}
	}
	if r.san.full != nil || len(free) > 4 {
		return nil
	}
	named := *r
	named.extensions = nil
	for combination := range 1 << (3 * len(free)) { // three bits for the text of each claim
		claims := oidc.Claims{}
		for i, name := range free {
			claims[name] = texts[combination>>(3*i)&7]
		}
		var id Identity
		err := named.identify(&oidc.Token{Claims: claims}, &id)
		if err == nil {
			err = id.SAN.Check()
		}
		if err == nil {
			return nil
		}
		if why == nil {
			why = err
		}
	}
	return why
}

// checkConstants reports the constants that no template reads. They are most likely misspelt, so
// that a claim would replace the value that the operator fixed.
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
