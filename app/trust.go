// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"log/slog"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/identity/policy"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/suggest"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server"
)

// trust is one issuer file at run time.
type trust struct {
	issuers  *config.Issuers
	verifier *oidc.Verifier
	rules    *identity.Rules
	infos    []server.IssuerInfo
	warnings []error
}

// loadTrust reads the issuer file called name and creates its run-time objects, with the settings
// of cfg for all issuers. It uses no network. An error is config.Mistakes, with all mistakes, or
// states why the file cannot be read.
func loadTrust(cfg *config.Server, name string, logger *slog.Logger, observe trustObserver) (*trust, []config.Mistake, error) {
	var t *trust
	issuers, warnings, err := config.BuildIssuers(name, cfg.Compat, func(issuers *config.Issuers) ([]error, error) {
		var err error
		t, err = newTrust(cfg, issuers, logger, observe)
		return t.warnings, err
	})
	if err != nil {
		return nil, warnings, err
	}
	t.issuers = issuers
	return t, warnings, nil
}

// newTrust creates an issuer file's run-time objects. Its errors are keypath errors, with all
// mistakes, and trust has the warnings beside them.
func newTrust(cfg *config.Server, issuers *config.Issuers, logger *slog.Logger, observe trustObserver) (*trust, error) {
	t := &trust{}
	var errs []error

	verifierConfig := oidc.Config{
		AllowLoopback:       cfg.OIDC.AllowLoopback,
		InsecureHosts:       cfg.OIDC.InsecureHosts,
		Proxy:               cfg.OIDC.Proxy.Reveal(),
		KeyRefresh:          cfg.OIDC.KeyRefresh,
		KeyLifetime:         cfg.OIDC.KeyLifetime,
		KubernetesAPIServer: cfg.OIDC.Kubernetes.APIServer,
		KubernetesCAFile:    cfg.OIDC.Kubernetes.CAFile,
		KubernetesTokenFile: cfg.OIDC.Kubernetes.TokenFile,
		MaxWaiting:          cfg.Limits.InFlight / 2, // leaves room for requests that wait for no issuer
		ProxiesKnown:        len(cfg.TrustedProxies) > 0,
		Now:                 time.Now,
		Logger:              logger,
		ObserveFetch:        observe.fetch,
	}
	rulesConfig := identity.Config{CIProviders: make(map[string]identity.CIProvider), Compat: cfg.Compat, Observe: observe.decision}
	for _, issuer := range issuers.Entries {
		verifierConfig.Issuers = append(verifierConfig.Issuers, verifierIssuer(issuer))
		for _, profile := range issuer.All() {
			rulesConfig.Issuers = append(rulesConfig.Issuers, ruleIssuer(profile))
			t.infos = append(t.infos, issuerInfo(profile))
		}
	}
	for name, provider := range issuers.CIProviders {
		templates, err := extensionTemplates(name, provider.ExtensionTemplates, issuers.ExtensionNames, cfg.Compat)
		errs = append(errs, err)
		rulesConfig.CIProviders[name] = identity.CIProvider{
			DefaultTemplateValues:          provider.DefaultTemplateValues,
			Constants:                      provider.Constants,
			ExtensionTemplates:             templates,
			SubjectAlternativeNameTemplate: provider.SubjectAlternativeNameTemplate,
			DistinctClaims:                 provider.DistinctClaims,
		}
	}

	var err error
	t.verifier, err = oidc.New(verifierConfig)
	errs = append(errs, err)
	t.rules, t.warnings, err = identity.NewRules(rulesConfig)
	errs = append(errs, err)
	return t, errors.Join(errs...)
}

func verifierIssuer(issuer config.Issuer) oidc.Issuer {
	i := oidc.Issuer{
		Key:                 issuer.Key,
		Audiences:           audiences(issuer),
		SigningAlgorithms:   issuer.SigningAlgorithms,
		CACert:              []byte(issuer.CACert),
		AllowPrivateNetwork: issuer.AllowPrivateNetwork,
		JWKSHosts:           issuer.JWKSHosts,
	}
	for _, profile := range issuer.All() {
		i.Kubernetes = i.Kubernetes || profile.Type == identity.TypeKubernetes
		i.SPIFFE = i.SPIFFE || profile.Type == identity.TypeSPIFFE
	}
	for _, profile := range issuer.Profiles {
		i.Profiles = append(i.Profiles, oidc.Profile{Name: profile.Name, Audiences: audiences(profile)})
	}
	if issuer.Wildcard {
		i.Pattern = issuer.Key
	} else {
		i.URL = issuer.Key // issuer-url equals it, or package config has reported a mistake
	}
	return i
}

func audiences(issuer config.Issuer) []string {
	return append([]string{issuer.ClientID}, issuer.Audiences...)
}

// ruleIssuer is the rule of an entry or of one of its profiles.
func ruleIssuer(issuer config.Issuer) identity.IssuerConfig {
	c := identity.IssuerConfig{
		Key:                   issuer.Key,
		Profile:               issuer.Name,
		Path:                  issuer.Path(),
		Static:                !issuer.Wildcard,
		IssuerURL:             issuer.IssuerURL,
		Type:                  issuer.Type,
		CIProvider:            issuer.CIProvider,
		IssuerClaim:           issuer.IssuerClaim,
		SubjectDomain:         issuer.SubjectDomain,
		SPIFFETrustDomain:     issuer.SPIFFETrustDomain,
		ChallengeClaim:        issuer.ChallengeClaim,
		SkipEmailVerification: issuer.SkipEmailVerification,
		AllowedEmailDomains:   issuer.AllowedEmailDomains,
		Constants:             issuer.Constants,
		Policy:                policy.Config{Mode: issuer.Mode},
	}
	for _, rule := range issuer.Allow {
		c.Policy.Allow = append(c.Policy.Allow, policy.Rule{Name: rule.Name, When: rule.When})
	}
	return c
}

// issuerInfo is the part of GetConfiguration for an entry.
func issuerInfo(issuer config.Issuer) server.IssuerInfo {
	challengeClaim := issuer.ChallengeClaim
	if challengeClaim == "" {
		challengeClaim = identity.ChallengeClaim(issuer.Type)
	}
	return server.IssuerInfo{
		URL:                   issuer.Key,
		Wildcard:              issuer.Wildcard,
		Audience:              issuer.ClientID,
		ChallengeClaim:        challengeClaim,
		SPIFFETrustDomain:     issuer.SPIFFETrustDomain,
		Type:                  issuer.Type,
		SubjectDomain:         issuer.SubjectDomain,
		SkipEmailVerification: issuer.SkipEmailVerification,
	}
}

// extensionTemplates returns templates under the YAML keys of the extension table; a JSON file has
// them under the extensions' names. An unknown name is a mistake unless compat is set.
func extensionTemplates(provider string, templates map[string]string, byName, compat bool) (map[string]string, error) {
	if !byName {
		return templates, nil
	}
	var errs []error
	out := make(map[string]string, len(templates))
	for name, template := range templates {
		extension, ok := certs.ExtensionByName(name)
		switch {
		case ok && extension.Key != "":
			out[extension.Key] = template
		case ok || name == "Subject":
			// A template never sets issuer and subject.
		case compat:
			out[name] = template // package identity warns of it
		default:
			errs = append(errs, keypath.Errorf([]string{"ci-issuer-metadata", provider, "extension-templates", name},
				"%q is no extension%s; docs/oids.md lists their names", name, suggest.DidYouMean(name, extensionNames())))
		}
	}
	return out, errors.Join(errs...)
}

// extensionNames are the names of the extensions that templates can set.
func extensionNames() []string {
	var names []string
	for _, extension := range certs.Table() {
		if extension.Key != "" {
			names = append(names, extension.Name)
		}
	}
	return names
}
