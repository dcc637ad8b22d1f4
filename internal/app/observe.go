// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/server"
)

// checks is what readiness is made of. An issuer that is out makes nobody else's
// certificates worse, so it shows in the report and turns nothing red; a key that does not
// sign, or a CA that is about to end, does.
func checks(authority *ca.Authority, profile *ca.Profile, live *live) []server.Check {
	return []server.Check{
		{
			Name:     "signer",
			Critical: true,
			Probe: func(context.Context) (string, error) {
				return "authority " + authority.ID() + " signs", authority.SelfTest()
			},
		},
		{
			Name:     "ca-certificates",
			Critical: true,
			Probe: func(context.Context) (string, error) {
				now := time.Now()
				if err := authority.ValidAt(now); err != nil {
					return "a CA certificate is not valid now", err
				}
				end := authority.Chain().NotAfter
				if now.Add(profile.Lifetime()).After(end) {
					return "a CA certificate ends before a new certificate would", fmt.Errorf("authority %s ends at %s", authority.ID(), end.UTC().Format(time.RFC3339))
				}
				return "valid until " + end.UTC().Format(time.RFC3339), nil
			},
		},
		{
			Name: "issuers",
			Probe: func(context.Context) (string, error) {
				return issuerHealth(live.status())
			},
		},
		{Name: "configuration", Probe: live.probe},
	}
}

// registerExpiry publishes when each CA certificate ends, and whether certificates are
// logged.
func registerExpiry(registry prometheus.Registerer, authority *ca.Authority, ctDisabled bool) {
	ends := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "mayfly_ca_certificate_not_after_seconds",
		Help: "End of each CA certificate, in Unix time.",
	}, []string{"authority", "subject"})
	for _, c := range authority.Chain().Certificates {
		ends.WithLabelValues(authority.ID(), c.Subject.String()).Set(float64(c.NotAfter.Unix()))
	}
	disabled := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mayfly_ct_disabled",
		Help: "1 if certificates are issued without Certificate Transparency.",
	})
	if ctDisabled {
		disabled.Set(1)
	}
	registry.MustRegister(ends, disabled)
}

func buildInfo(version string) prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "mayfly_build_info",
		Help:        "1; the labels tell the version.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()},
	})
	info.Set(1)
	return info
}
