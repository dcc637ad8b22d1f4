// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/app/caset"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// checkChains loads the chains that cfg names, without their keys, and reports the issuer entries
// of t whose kind of name no verifier accepts below one of them.
func (r *CheckReport) checkChains(cfg *config.Server, t *trust, now time.Time) {
	chains := r.chains(cfg, now)
	var errs []error
	for _, named := range chains {
		unusable, err := named.Chain.Trial(now)
		if err != nil {
			continue // every kind; the chain itself is reported
		}
		for _, entry := range t.issuers.Entries {
			for _, profile := range entry.All() {
				if cause := unusable[identity.SANKind(profile.Type)]; cause != nil {
					errs = append(errs, keypath.Errorf(append(profile.Path(), "type"), "the chain of authority %q accepts no certificate of this issuer: %w", named.ID, cause))
				}
			}
		}
	}
	r.add(t.issuers.Explain(errors.Join(errs...)))
}

// chains returns the authorities that sign or will sign, and adds to the report what keeps a
// server from loading them.
func (r *CheckReport) chains(cfg *config.Server, now time.Time) (chains []ca.Member) {
	if cfg.CA.File != nil {
		windows, err := loadWindows(cfg, now)
		r.add(err)
		for _, window := range windows {
			if _, err := window.Chain.Trial(now); err != nil {
				r.add(cfg.Explain(keypath.Errorf([]string{"ca", "file", "chain"}, "%s: %w", cfg.CA.File.Chain, err)))
			}
			chains = append(chains, ca.Member{ID: "file", Chain: window.Chain})
		}
		return chains
	}
	if cfg.CA.Set == "" {
		return nil
	}
	loaded, err := caset.Read(cfg.CA.Set, now)
	if err != nil {
		if !errors.As(err, new(config.Mistakes)) {
			err = cfg.Explain(keypath.Errorf([]string{"ca", "set"}, "%w", err))
		}
		r.add(err)
		return nil
	}
	r.add(loaded.Unfit)
	for _, m := range loaded.Set.Members() {
		if state := m.StateAt(now); state != ca.Retired && state != ca.Expired {
			chains = append(chains, m)
		}
	}
	return chains
}
