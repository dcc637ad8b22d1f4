// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"cmp"
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
	*builder
	*ciProvider
	config CIProvider
	path   []string
	reads  set // the claims that some template names
}

// provider compiles the entry at path. It reports every mistake at once, and returns nil if there
// is one.
func (b *builder) provider(config CIProvider, path []string) *ciProvider {
	l := &ciLoader{builder: b, config: config, path: path, reads: set{},
		ciProvider: &ciProvider{defaults: maps.Clone(config.DefaultTemplateValues), constants: maps.Clone(config.Constants)}}
	mistakes := len(b.errs)
	l.compileName()
	var known []string
	for _, e := range certs.Table() {
		if e.Key != "" {
			known = append(known, e.Key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(config.ExtensionTemplates)) {
		source, path := config.ExtensionTemplates[key], at(path, "extension-templates", key)
		if source == "" || key == "issuer" || key == "subject" {
			continue // not set; or the token's own, whatever a template states
		}
		if extension, ok := certs.ExtensionByKey(key); !ok {
			b.tolerate(path, "there is no extension %s%s", quote(key), suggest.DidYouMeanOr(key, known, "the names are"))
		} else if t := l.compile(source, path); t != nil {
			l.extensions = append(l.extensions, extensionTemplate{extension, t})
		}
	}
	l.names = l.reads.sorted()
	if len(b.errs) == mistakes {
		b.checkConstants(l.ciProvider, config.Constants, at(path, "constants"))
	}
	for _, name := range slices.Sorted(maps.Keys(config.Constants)) {
		if _, ok := config.DefaultTemplateValues[name]; ok {
			b.errorf(at(path, "constants", name), "%s has a default too, which could never count; remove one of the two", quote(name))
		}
	}
	if len(b.errs) == mistakes {
		l.checkName()
	}
	if len(b.errs) > mistakes {
		return nil
	}
	slices.SortFunc(l.extensions, func(a, b extensionTemplate) int { return int(a.extension.Arc) - int(b.extension.Arc) })
	return l.ciProvider
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
		l.tolerate(path, "a claim is text to a template and has nothing inside, so that %s refuses whatever token it is read for; a claim whose name has a dot is {{index . \"name.with.dot\"}}", quote(t.reads.nested))
	}
	if !strings.Contains(source, "{{") && (strings.ContainsAny(source, "{} ") || strings.Contains(source, "://")) {
		l.warnf(path, "without {{ this is the name of one claim, %s; text with claims in it is written as in {{.url}}/{{.ref}}", quote(source))
	}
	if t.reads.controls {
		l.warnf(path, "the template's own text holds a line break or another control character, which cannot enter a certificate: tokens will be refused; in YAML, end a block with >- or |-, or trim with {{- and -}}")
	}
	maps.Copy(l.reads, t.reads.names)
	l.unnamed = l.unnamed || t.reads.unnamed
	return t
}

// compileName compiles the SAN's template.
func (l *ciLoader) compileName() {
	path := at(l.path, "subject-alternative-name-template")
	if l.config.SubjectAlternativeNameTemplate == "" {
		l.errorf(path, "subject-alternative-name-template is missing; give one, such as https://ci.example/{{.project}}/{{.pipeline}}")
		return
	}
	if l.san = l.compile(l.config.SubjectAlternativeNameTemplate, path); l.san == nil {
		return
	}
	l.sanNames = l.reads.sorted()
	for _, name := range l.sanNames {
		standard, ok := l.defaults[name]
		needed := l.san.reads.needed[name]
		if needed || !ok && !l.fixed(name) {
			l.required = append(l.required, name)
		}
		if needed && ok && standard == "" {
			l.warnf(path, "the name needs the claim %s, so that its empty default does not count: a token without the claim is refused", quote(name))
		}
		// A token without a required claim has no name that another could share.
		if l.san.reads.shown[name] && ok && (standard != "" || !needed) {
			l.optional = append(l.optional, name)
		}
	}
}

// checkName reports a template of text by which no token gets a name, and claims that the name does
// not keep apart, unless a token is refused in that case.
func (l *ciLoader) checkName() {
	path := at(l.path, "subject-alternative-name-template")
	distinct := l.config.DistinctClaims
	if l.san.full != nil {
		if distinct {
			l.errorf(path, "distinct-claims is for a template of text, {{.claim}} and {{index . \"claim\"}}; this one has more")
		} else if len(l.sanNames) > 1 || l.unnamed || len(l.san.reads.shown) < len(l.sanNames) {
			l.warnf(path, "the template has conditions or functions, so that mayfly cannot check that different claims make different names; check it with tests beside the issuer")
		}
		return
	}
	report := l.warnf
	if distinct {
		report = l.errorf
	}
	if err := l.refusesAll(); err != nil && !l.san.reads.controls { // which is reported
		l.tolerate(path, "no token gets a name by this template: with every text that was tried for its claims, %w", err)
	}
	kept := distinct || l.isBuiltInName(l.config.SubjectAlternativeNameTemplate)
	l.separate = kept
	for _, p := range pairs(l.san.parts, l.constants, l.constants) {
		standard := l.defaults[p.first]
		switch {
		case p.separator == "":
			report(path, "nothing separates the claims %s and %s in the name: other claims could make the same name; put a text between them that the first cannot contain", quote(p.first), quote(p.second))
		case kept && standard != "" && !ends(standard+p.separator, standard, p.separator):
			l.separate = false
			report(path, "the default of %s holds %s, which separates it from the claim %s in the name: other claims could make the same name; make it a constant", quote(p.first), quote(p.separator), quote(p.second))
		case !kept:
			l.warnf(path, "the claim %s may contain %s, which separates it from the claim %s in the name: other claims could make the same name; with distinct-claims: true such a token is refused", quote(p.first), quote(p.separator), quote(p.second))
		}
	}
}

// refusesAll returns why no token gets a name by a template of text: the first refusal if all
// combinations of some texts are refused, otherwise nil. A template with more than four claims is not
// tried.
func (r *ciProvider) refusesAll() (why error) {
	texts := []any{"a", "https://a.example", "1", "//a.example", "a.example", "::1", "2f", ""}
	free := slices.DeleteFunc(slices.Clone(r.sanNames), func(name string) bool { return r.defaults[name] != "" || r.fixed(name) })
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
		why = cmp.Or(why, err)
	}
	return why
}

// checkConstants reports the constants that no template reads. They are most likely misspelt, so
// that a claim would replace the value that the operator fixed.
func (b *builder) checkConstants(r *ciProvider, constants map[string]string, path []string) {
	for _, name := range slices.Sorted(maps.Keys(constants)) {
		if !r.unnamed && !slices.Contains(r.names, name) {
			b.errorf(at(path, name), "no template reads %s%s", quote(name), suggest.DidYouMeanOr(name, r.names, "the names that templates read are"))
		}
	}
}
