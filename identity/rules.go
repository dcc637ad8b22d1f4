// SPDX-License-Identifier: Apache-2.0

package identity

import (
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
	b := builder{providers: map[string]*ciProvider{}}
	for _, name := range slices.Sorted(maps.Keys(config.CIProviders)) {
		provider, warned, errs := newCIProvider(config.CIProviders[name], []string{"ci-issuer-metadata", name}, config.Compat)
		b.providers[name] = provider
		b.warnings = append(b.warnings, warned...)
		b.errs = append(b.errs, errs...)
	}
	byEntry := make(map[entryKey]entryRule, len(config.Issuers))
	for _, entry := range config.Issuers {
		key := entryKey{entry.Key, entry.Profile}
		if _, ok := byEntry[key]; ok {
			b.errorf(entry.path(), "another entry has the same key; give each entry its own")
		}
		e := entryBuilder{builder: &b, IssuerConfig: entry}
		e.checkStrayKeys()
		byEntry[key] = entryRule{e.rule(), e.policy()}
	}
	if len(b.errs) > 0 {
		return nil, b.warnings, errors.Join(b.errs...)
	}
	return &Rules{byEntry: byEntry, observe: config.Observe}, b.warnings, nil
}

// builder collects the results of NewRules.
type builder struct {
	// providers has a nil provider for an entry with mistakes.
	providers map[string]*ciProvider
	warnings  []error
	errs      []error
}

func (b *builder) errorf(path []string, format string, args ...any) {
	b.errs = append(b.errs, keypath.Errorf(path, format, args...))
}

func (b *builder) warnf(path []string, format string, args ...any) {
	b.warnings = append(b.warnings, keypath.Errorf(path, format, args...))
}

// entryBuilder builds the rule of one entry.
type entryBuilder struct {
	*builder
	IssuerConfig
}

// wrong and warn report about the entry's key.
func (e *entryBuilder) wrong(key, format string, args ...any) {
	e.errorf(at(e.path(), key), format, args...)
}

func (e *entryBuilder) warn(key, format string, args ...any) {
	e.warnf(at(e.path(), key), format, args...)
}

// policy compiles allow and mode.
func (e *entryBuilder) policy() *policy.Policy {
	p, err := policy.New(e.Policy)
	if err != nil {
		e.errs = append(e.errs, keypath.Prefix(err, e.path()...))
	}
	return p
}

// rule returns the entry's rule; nil if it has mistakes.
func (e *entryBuilder) rule() rule {
	switch e.Type {
	case TypeEmail:
		return e.email()
	case TypeCIProvider:
		return e.ciProvider()
	case TypeGithubWorkflow:
		return githubWorkflow()
	case TypeGitlabPipeline:
		return gitlabPipeline()
	case TypeCodefreshWorkflow:
		return codefreshWorkflow()
	case TypeBuildkiteJob:
		return buildkiteJob()
	case TypeKubernetes:
		return kubernetes{}
	case TypeSPIFFE:
		return e.spiffe()
	case TypeURI:
		return uri{e.subjectDomain(parseURLDomain)}
	case TypeUsername:
		return username{e.subjectDomain(parseNameDomain)}
	case TypeChainguardIdentity:
		return chainguardIdentity{}
	case "":
		e.wrong("type", "the type is missing; it must be one of %s", strings.Join(Types(), ", "))
	default:
		e.wrong("type", "there is no issuer type %s%s", quote(e.Type), suggest.DidYouMeanOr(e.Type, Types(), "it must be one of"))
	}
	return nil
}

// checkStrayKeys reports the keys that the entry's type does not read.
func (e *entryBuilder) checkStrayKeys() {
	if !slices.Contains(Types(), e.Type) {
		return // the keys that it reads are unknown
	}
	for _, stray := range []struct {
		key   string
		set   bool
		types []string
	}{
		{"ci-provider", e.CIProvider != "", []string{TypeCIProvider}},
		{"subject-domain", e.SubjectDomain != "", []string{TypeURI, TypeUsername}},
		{"spiffe-trust-domain", e.SPIFFETrustDomain != "", []string{TypeSPIFFE}},
		{"skip-email-verification", e.SkipEmailVerification, []string{TypeEmail}},
	} {
		if stray.set && !slices.Contains(stray.types, e.Type) {
			e.warn(stray.key, "this key has no effect on type %s; it is for %s", e.Type, strings.Join(stray.types, " and "))
		}
	}
	if e.Type != TypeEmail {
		if e.IssuerClaim != "" && e.Static {
			e.wrong("issuer-claim", "this key is for type email; remove it from an entry of type %s", e.Type)
		} else if e.IssuerClaim != "" {
			e.warn("issuer-claim", "this key has no effect on type %s; it is for email", e.Type)
		}
		if len(e.AllowedEmailDomains) > 0 {
			e.wrong("allowed-email-domains", "this key is for type email, and would restrict nothing on type %s; remove it", e.Type)
		}
	}
	if e.Type != TypeCIProvider && len(e.Constants) > 0 {
		e.wrong("constants", "this key is for type ci-provider, whose templates read it; remove it from an entry of type %s", e.Type)
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
			e.errorf(at(e.path(), "allowed-email-domains", strconv.Itoa(i)), "%s is not a domain of at least two labels, such as example.com; wildcards and a leading @ are not supported", quote(domain))
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
	switch {
	case e.CIProvider == "":
		e.wrong("ci-provider", "ci-provider is missing; name an entry of ci-issuer-metadata")
	case !ok:
		known := "which has none"
		names := slices.Sorted(maps.Keys(e.providers))
		if len(names) > 0 {
			known = "which has " + strings.Join(names, ", ")
		}
		e.wrong("ci-provider", "there is no entry %s in ci-issuer-metadata, %s%s", quote(e.CIProvider), known, suggest.DidYouMean(e.CIProvider, names))
	}
	if provider == nil || len(e.Constants) == 0 {
		return provider
	}
	e.errs = append(e.errs, provider.checkConstants(e.Constants, at(e.path(), "constants"))...)
	own := *provider
	own.constants = maps.Clone(provider.constants)
	if own.constants == nil {
		own.constants = make(map[string]string)
	}
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
	if e.SPIFFETrustDomain == "" {
		e.wrong("spiffe-trust-domain", "spiffe-trust-domain is missing; type spiffe needs the trust domain of its subjects, such as example.com")
		return nil
	}
	domain, err := parseTrustDomain(e.SPIFFETrustDomain)
	if err != nil {
		e.wrong("spiffe-trust-domain", "%s is not a trust domain: %w", quote(e.SPIFFETrustDomain), err)
	}
	return spiffe{domain}
}

// subjectDomain parses subject-domain, and checks it against the issuer URL of a static entry; that
// of a wildcard entry is known only with the token.
func (e *entryBuilder) subjectDomain(parse func(string) (subjectDomain, error)) subjectDomain {
	if e.SubjectDomain == "" {
		e.wrong("subject-domain", "subject-domain is missing; type %s needs the domain of its subjects", e.Type)
		return subjectDomain{}
	}
	domain, err := parse(e.SubjectDomain)
	if err != nil {
		e.wrong("subject-domain", "%w", err)
		return subjectDomain{}
	}
	domain.wildcard = !e.Static
	if e.Static {
		issuerURL := e.IssuerURL
		if issuerURL == "" {
			issuerURL = e.Key
		}
		if err := domain.ofIssuer(issuerURL); err != nil {
			e.wrong("subject-domain", "the provider at %s may not name subjects in %s: %w", quote(issuerURL), quote(e.SubjectDomain), err)
		}
	}
	return domain
}
