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

// checks is what readiness is made of. An issuer that is out makes nobody else's
// certificates worse, so it shows in the report and turns nothing red; a key that does not
// sign, or a CA that is about to end, does.
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
