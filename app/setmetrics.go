// SPDX-License-Identifier: Apache-2.0

package app

import (
	"strconv"

	"github.com/mayfly-ca/mayfly/internal/breaker"
)

// setMetrics publishes the content of the set in use, and when its certificates expire.
func setMetrics(c *caSet) *scraped {
	return newScraped(func(set setGauge) {
		now, loaded := c.now(), c.current.Load()
		set("mayfly_ca_set_generation", float64(loaded.Generation()))
		set("mayfly_ca_successor", boolean(loaded.Successor(now)))
		for _, m := range loaded.Members() {
			state := m.StateAt(now).String()
			set("mayfly_ca_authority_state", 1, m.ID, state)
			for i, certificate := range m.Chain.Certificates {
				set("mayfly_ca_certificate_seconds_to_expiry", certificate.NotAfter.Sub(now).Seconds(), m.ID, state, strconv.Itoa(i), certificate.Subject.String())
			}
			if m.Authority == nil || m.Authority.Signer().Status().Local {
				continue
			}
			status := m.Authority.Signer().Status()
			set("mayfly_signer_proven", boolean(status.Proven), m.ID, state, status.Kind)
			for _, b := range breaker.States() {
				set("mayfly_signer_breaker_state", boolean(b == status.State), m.ID, state, status.Kind, string(b))
			}
		}
	},
		gauge{"mayfly_ca_set_generation", "Generation of the CA set in use; the same on every replica.", nil},
		gauge{"mayfly_ca_successor", "1 if an authority is published or staged that can take over from the active one, and ends later.", nil},
		gauge{"mayfly_ca_authority_state", "1 for the state that each authority is in: staged, published, active, retired, compromised or expired.", []string{"authority", "state"}},
		gauge{"mayfly_ca_certificate_seconds_to_expiry", "Seconds until each certificate of each chain ends; negative once it has. Position 0 is the issuing CA. The state is the authority's.",
			[]string{"authority", "state", "position", "subject"}},
		gauge{"mayfly_signer_breaker_state", "1 for the state that the breaker of each key outside of this process is in: closed, half-open (one attempt finds out whether the key has recovered) or open (the key receives no request). The state is the authority's.",
			[]string{"authority", "state", "kind", "breaker"}},
		gauge{"mayfly_signer_proven", "1 if the key outside of this process has made a signature that verified since it was first named.", []string{"authority", "state", "kind"}},
	)
}
