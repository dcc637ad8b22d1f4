// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/identity/policy"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/suggest"
)

// NewRules builds the rule of every issuer entry. It finds all mistakes at once: err joins keypath
// errors, with paths from the issuer file's root. warnings are keypath errors too, and are returned
// even if err is not nil.
func NewRules(config Config) (rules *Rules, warnings []error, err error) {
	b := &builder{compat: config.Compat}
	known, err := BuiltIn()
	if err != nil {
		return nil, nil, err
	}
	b.builtIn = maps.Clone(known)
	maps.Copy(known, config.CIProviders)
	providers := map[string]*ciProvider{}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		providers[name] = b.provider(known[name], []string{"ci-issuer-metadata", name})
	}
	var policies policy.Compiler
	byEntry := make(map[entryKey]entryRule, len(config.Issuers))
	for _, entry := range config.Issuers {
		key := entryKey{entry.Key, entry.Profile}
		if _, ok := byEntry[key]; ok {
			b.errorf(entry.Path, "another entry has the same key; give each entry its own")
		}
		e := entryBuilder{b, entry, providers}
		e.checkStrayKeys()
		r := e.rule()
		p, err := policies.New(entry.Policy)
		if err != nil {
			b.errs = append(b.errs, keypath.Prefix(err, entry.Path...))
		}
		byEntry[key] = entryRule{r, p}
	}
	if len(b.errs) > 0 {
		return nil, b.warnings, errors.Join(b.errs...)
	}
	return &Rules{byEntry: byEntry, observe: config.Observe}, b.warnings, nil
}

// builder collects the mistakes and warnings of NewRules.
type builder struct {
	compat         bool
	builtIn        map[string]CIProvider
	warnings, errs []error
}

func (b *builder) errorf(path []string, format string, args ...any) {
	b.errs = append(b.errs, keypath.Errorf(path, format, args...))
}

func (b *builder) warnf(path []string, format string, args ...any) {
	b.warnings = append(b.warnings, keypath.Errorf(path, format, args...))
}

// tolerate reports a fault that the peer tolerates.
func (b *builder) tolerate(path []string, format string, args ...any) {
	if b.compat {
		b.warnf(path, format, args...)
	} else {
		b.errorf(path, format, args...)
	}
}

// entryBuilder builds the rule of one entry.
type entryBuilder struct {
	*builder
	IssuerConfig
	providers map[string]*ciProvider // nil for one with mistakes
}

// wrong and warn report about the entry's key.
func (e *entryBuilder) wrong(key, format string, args ...any) {
	e.errorf(at(e.Path, key), format, args...)
}

func (e *entryBuilder) warn(key, format string, args ...any) {
	e.warnf(at(e.Path, key), format, args...)
}

// rule returns the entry's rule; nil if it has mistakes.
func (e *entryBuilder) rule() rule {
	switch e.Type {
	case TypeEmail:
		return e.email()
	case TypeCIProvider:
		return e.ciProvider()
	case TypeGithubWorkflow, TypeGitlabPipeline, TypeCodefreshWorkflow, TypeBuildkiteJob:
		return e.olderType(e.Type)
	case TypeKubernetes:
		return kubernetes{}
	case TypeSPIFFE:
		return e.spiffe()
	case TypeURI:
		return uri{e.subjectDomain()}
	case TypeUsername:
		return username{e.subjectDomain()}
	case TypeChainguardIdentity:
		return chainguardIdentity{}
	default:
		e.wrong("type", "there is no issuer type %s%s", quote(e.Type), suggest.DidYouMeanOr(e.Type, Types(), "it must be one of"))
	}
	return nil
}

// checkStrayKeys reports the keys that the entry's type does not read. A key that would change or
// restrict certificates is a mistake.
func (e *entryBuilder) checkStrayKeys() {
	if !slices.Contains(Types(), e.Type) {
		return // the keys that it reads are unknown
	}
	for _, stray := range []struct {
		key     string
		set     bool
		mistake bool
		types   []string
	}{
		{"ci-provider", e.CIProvider != "", false, []string{TypeCIProvider}},
		{"subject-domain", e.SubjectDomain != "", false, []string{TypeURI, TypeUsername}},
		{"spiffe-trust-domain", e.SPIFFETrustDomain != "", false, []string{TypeSPIFFE}},
		{"skip-email-verification", e.SkipEmailVerification, false, []string{TypeEmail}},
		{"issuer-claim", e.IssuerClaim != "", e.Static, []string{TypeEmail}},
		{"allowed-email-domains", len(e.AllowedEmailDomains) > 0, true, []string{TypeEmail}},
		{"constants", len(e.Constants) > 0, true, []string{TypeCIProvider}},
	} {
		report := e.warn
		if stray.mistake {
			report = e.wrong
		}
		if stray.set && !slices.Contains(stray.types, e.Type) {
			report(stray.key, "this key is for type %s, and has no effect on type %s; remove it", strings.Join(stray.types, " and "), e.Type)
		}
	}
	if e.ChallengeClaim != "" && e.ChallengeClaim != ChallengeClaim(e.Type) {
		e.warn("challenge-claim", "this only changes what clients are told: what must be signed for type %s stays the claim %s", e.Type, quote(ChallengeClaim(e.Type)))
	}
}

func (e *entryBuilder) email() rule {
	r := &email{skipVerification: e.SkipEmailVerification, domains: map[string]bool{}}
	if e.SkipEmailVerification && len(e.AllowedEmailDomains) == 0 {
		e.warn("skip-email-verification", "the provider may name any address of any domain without having verified it; list the domains that it may name under allowed-email-domains")
	}
	for i, domain := range e.AllowedEmailDomains {
		if !isDomain(domain) {
			e.errorf(at(e.Path, "allowed-email-domains", strconv.Itoa(i)), "%s is not a domain of at least two labels, such as example.com; wildcards and a leading @ are not supported", quote(domain))
		}
		r.domains[strings.ToLower(domain)] = true
	}
	if e.IssuerClaim != "" {
		var err error
		if r.issuer, err = parseClaimPath(e.IssuerClaim); err != nil {
			e.wrong("issuer-claim", "%w", err)
		}
	}
	return r
}

func (e *entryBuilder) ciProvider() rule {
	provider, ok := e.providers[e.CIProvider]
	if !ok {
		e.wrong("ci-provider", "there is no entry %s in ci-issuer-metadata, and no built-in CI provider has this name%s", quote(e.CIProvider),
			suggest.DidYouMeanOr(e.CIProvider, slices.Sorted(maps.Keys(e.providers)), "the names are"))
	}
	if provider == nil || len(e.Constants) == 0 {
		return provider
	}
	e.checkConstants(provider, e.Constants, at(e.Path, "constants"))
	own := *provider
	own.constants = make(map[string]string)
	maps.Copy(own.constants, provider.constants)
	maps.Copy(own.constants, e.Constants)
	if why := own.refusesAll(); why != nil {
		e.warn("constants", "no token gets a name with these constants: with every text that was tried for its claims, %w", why)
	}
	return &own
}

func (e *entryBuilder) spiffe() rule {
	if !e.Static {
		e.wrong("type", "type spiffe needs one issuer URL for its trust domain; move the entry to oidc-issuers")
	}
	domain, err := parseTrustDomain(e.SPIFFETrustDomain)
	if err != nil {
		e.wrong("spiffe-trust-domain", "type spiffe needs spiffe-trust-domain, the trust domain of its subjects, such as example.com; %s is none: %w", quote(e.SPIFFETrustDomain), err)
	}
	return spiffe{domain}
}

// subjectDomain parses subject-domain, and checks it against the issuer URL of a static entry; that
// of a wildcard entry is known only with the token.
func (e *entryBuilder) subjectDomain() subjectDomain {
	domain, err := parseSubjectDomain(e.SubjectDomain, e.Type)
	if err == nil && e.Static {
		err = domain.ofIssuer(cmp.Or(e.IssuerURL, e.Key))
	}
	if err != nil {
		e.wrong("subject-domain", "%w", err)
	}
	return domain
}
