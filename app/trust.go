// SPDX-License-Identifier: Apache-2.0

package app

import (
	"cmp"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/identity"
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
func loadTrust(cfg *config.Server, name string, logger *slog.Logger, observe trustObserver) (*trust, []error, error) {
	var t *trust
	issuers, warnings, err := config.LoadIssuers(name, cfg.Compat, func(issuers *config.Issuers) ([]error, error) {
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
	t := &trust{infos: issuerInfos(issuers)}
	verifier := cfg.OIDC.Config
	verifier.Proxy, verifier.ProxiesKnown = cfg.OIDC.Proxy.Reveal(), len(cfg.TrustedProxies) > 0
	verifier.MaxWaiting = cfg.Limits.InFlight / 2 // leaves room for requests that wait for no issuer
	verifier.Now, verifier.Logger, verifier.ObserveFetch = time.Now, logger, observe.fetch
	rules := identity.Config{CIProviders: issuers.CIIssuerMetadata, Compat: cfg.Compat, Observe: observe.decision}
	verifier.Issuers = make([]oidc.Issuer, 0, len(issuers.Entries))
	for i := range issuers.Entries {
		verifier.Issuers = append(verifier.Issuers, verifierIssuer(&issuers.Entries[i]))
	}
	rules.Issuers = make([]identity.IssuerConfig, 0, len(issuers.Entries))
	for _, profile := range issuers.All() {
		rules.Issuers = append(rules.Issuers, profile.IssuerConfig)
	}
	var errVerifier, errRules error
	var other sync.WaitGroup
	other.Go(func() { t.verifier, errVerifier = oidc.New(verifier) })
	t.rules, t.warnings, errRules = identity.NewRules(rules)
	other.Wait()
	return t, errors.Join(errVerifier, errRules)
}

// verifierIssuer completes what an entry states about the connection to its issuer.
func verifierIssuer(entry *config.Issuer) oidc.Issuer {
	i := entry.Connection
	i.Key, i.Wildcard, i.Audiences = entry.Key, !entry.Static, entry.Accepted() // issuer-url equals Key, or package config has reported a mistake
	for _, profile := range entry.All() {
		i.Kubernetes = i.Kubernetes || profile.Type == identity.TypeKubernetes
		i.SPIFFE = i.SPIFFE || profile.Type == identity.TypeSPIFFE
	}
	for _, profile := range entry.Profiles {
		i.Profiles = append(i.Profiles, oidc.Profile{Name: profile.IssuerConfig.Profile, Audiences: profile.Accepted()})
	}
	return i
}

// issuerInfos is the content of GetConfiguration: the entries that are not disabled, and their profiles.
func issuerInfos(issuers *config.Issuers) (infos []server.IssuerInfo) {
	for _, profile := range issuers.Enabled() {
		infos = append(infos, server.IssuerInfo{
			URL:                   profile.Key,
			Wildcard:              !profile.Static,
			Audience:              profile.ClientID,
			ChallengeClaim:        cmp.Or(profile.ChallengeClaim, identity.ChallengeClaim(profile.Type)),
			SPIFFETrustDomain:     profile.SPIFFETrustDomain,
			Type:                  profile.Type,
			SubjectDomain:         profile.SubjectDomain,
			SkipEmailVerification: profile.SkipEmailVerification,
		})
	}
	return infos
}
