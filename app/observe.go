// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/server"
)

// checks are the checks of readiness. The failure of an issuer does not affect the tokens of
// others: the report shows it, and the server stays ready. A key that does not sign, or a CA that
// expires soon, makes the server unready.
func checks(rotation *rotation, profile *ca.Profile, live *live) []server.Check {
	return append(rotation.checks(profile),
		server.Check{
			Name: "issuers",
			Probe: func(context.Context) (string, error) {
				return issuerHealth(live.status())
			},
		},
		server.Check{Name: "configuration", Probe: live.probe})
}

// registerCT publishes whether certificates are logged, and when logs retire.
func registerCT(registry prometheus.Registerer, cfg *config.Server, now func() time.Time) {
	disabled := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mayfly_ct_disabled",
		Help: "1 if certificates are issued without Certificate Transparency.",
	})
	if cfg.CT.Disabled {
		disabled.Set(1)
	}
	registry.MustRegister(disabled, logRetirement{logs: cfg.CT.Logs, now: now})
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
