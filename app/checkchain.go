// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// checkChains reports the issuer entries of t with a kind of name that no verifier accepts below a
// chain. It checks the chains of the authorities that sign or will sign.
func (r *CheckReport) checkChains(t *trust, now time.Time) {
	var errs []error
	for _, m := range r.members {
		if state := m.StateAt(now); state != set.Staged && state != set.Published && state != set.Active {
			continue
		}
		unusable, err := m.Chain.Trial(now)
		if err != nil {
			continue // no kind is usable; the chain's own mistake is reported elsewhere
		}
		for _, entry := range t.issuers.Entries {
			for _, profile := range entry.All() {
				if cause := unusable[identity.SANKind(profile.Type)]; cause != nil {
					errs = append(errs, keypath.Errorf(append(slices.Clip(profile.Path), "type"), "the chain of authority %q accepts no certificate of this issuer: %w", m.ID, cause))
				}
			}
		}
	}
	r.add(t.issuers.WithPlaces(errors.Join(errs...)))
}
