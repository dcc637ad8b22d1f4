// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server"
)

// trust is one issuer file at run time.
type trust struct {
	verifier *oidc.Verifier
	rules    *identity.Rules
	infos    []server.IssuerInfo
	warnings []error
}

// newTrust makes an issuer file's run-time objects. Its errors are keypath errors, every
// mistake at once.
func newTrust(cfg *config.Server, issuers *config.Issuers, logger *slog.Logger, registry prometheus.Registerer) (*trust, error) {
	t := &trust{}
	var errs []error

	verifierConfig := oidc.Config{
		AllowLoopback:       cfg.OIDC.AllowLoopback,
		Proxy:               cfg.OIDC.Proxy.Reveal(),
		KeyRefresh:          cfg.OIDC.KeyRefresh,
		KeyLifetime:         cfg.OIDC.KeyLifetime,
		KubernetesAPIServer: cfg.OIDC.Kubernetes.APIServer,
		KubernetesCAFile:    cfg.OIDC.Kubernetes.CAFile,
		KubernetesTokenFile: cfg.OIDC.Kubernetes.TokenFile,
		Now:                 time.Now,
		Logger:              logger,
		ObserveFetch:        observeFetches(registry),
	}
	rulesConfig := identity.Config{CIProviders: make(map[string]identity.CIProvider), Compat: cfg.Compat}
	for _, issuer := range issuers.Entries {
		if len(issuer.Constants) > 0 {
			errs = append(errs, keypath.Errorf([]string{section(issuer), issuer.Key, "constants"},
				"constants cannot be used yet; write default-template-values under names that no claim has"))
		}
		verifierConfig.Issuers = append(verifierConfig.Issuers, verifierIssuer(issuer))
		rulesConfig.Issuers = append(rulesConfig.Issuers, ruleIssuer(issuer))
		t.infos = append(t.infos, issuerInfo(issuer))
	}
	for name, provider := range issuers.CIProviders {
		templates, err := extensionTemplates(name, provider.ExtensionTemplates, issuers.ExtensionNames, cfg.Compat)
		errs = append(errs, err)
		rulesConfig.CIProviders[name] = identity.CIProvider{
			DefaultTemplateValues:          provider.DefaultTemplateValues,
			ExtensionTemplates:             templates,
			SubjectAlternativeNameTemplate: provider.SubjectAlternativeNameTemplate,
		}
	}

	var err error
	t.verifier, err = oidc.New(verifierConfig)
	errs = append(errs, err)
	t.rules, t.warnings, err = identity.NewRules(rulesConfig)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return t, nil
}

func section(issuer config.Issuer) string {
	if issuer.Wildcard {
		return "meta-issuers"
	}
	return "oidc-issuers"
}

func verifierIssuer(issuer config.Issuer) oidc.Issuer {
	i := oidc.Issuer{
		Key:                 issuer.Key,
		Audiences:           append([]string{issuer.ClientID}, issuer.Audiences...),
		SigningAlgorithms:   issuer.SigningAlgorithms,
		CACert:              []byte(issuer.CACert),
		Kubernetes:          issuer.Type == identity.TypeKubernetes,
		AllowPrivateNetwork: issuer.AllowPrivateNetwork,
		JWKSHosts:           issuer.JWKSHosts,
	}
	if issuer.Wildcard {
		i.Pattern = issuer.Key
	} else {
		i.URL = issuer.IssuerURL
	}
	return i
}

func ruleIssuer(issuer config.Issuer) identity.IssuerConfig {
	return identity.IssuerConfig{
		Key:                   issuer.Key,
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
	}
}

// issuerInfo is what GetConfiguration says of an entry.
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

// extensionTemplates returns templates under the YAML keys of the extension table; a JSON
// file has them under the extensions' names. An unknown name is a mistake unless compat
// is set.
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
			// Issuer and subject are never a template's to say.
		case compat:
			out[name] = template // package identity warns of it
		default:
			errs = append(errs, keypath.Errorf([]string{"ci-issuer-metadata", provider, "extension-templates", name},
				"%q is no extension; docs/oids.md lists their names", name))
		}
	}
	return out, errors.Join(errs...)
}
