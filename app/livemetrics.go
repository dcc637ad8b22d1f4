// SPDX-License-Identifier: Apache-2.0

package app

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/identity/policy"
	"github.com/mayfly-ca/mayfly/oidc"
)

// reloadMetrics report which configuration is in use, and whether it is the newest.
type reloadMetrics struct {
	generation, lastSuccess, lastFailure, stale prometheus.Gauge
	reloads                                     *prometheus.CounterVec
}

func newReloadMetrics(registry prometheus.Registerer) *reloadMetrics {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		registry.MustRegister(g)
		return g
	}
	m := &reloadMetrics{
		generation:  gauge("mayfly_config_generation", "Number of the issuer configuration in use, one more with each that was loaded since the start."),
		lastSuccess: gauge("mayfly_config_last_reload_success_timestamp_seconds", "When the issuer file was last reloaded, in Unix time; 0 if never since the start."),
		lastFailure: gauge("mayfly_config_last_reload_failure_timestamp_seconds", "When reloading the issuer file last failed, in Unix time; 0 if never since the start."),
		stale:       gauge("mayfly_config_stale", "1 while the issuer file has changed and could not be loaded, so that an older one is in use."),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_config_reloads_total",
			Help: "Reloads of the issuer file, by result.",
		}, []string{"result"}),
	}
	registry.MustRegister(m.reloads)
	for _, result := range []string{"ok", "error"} {
		m.reloads.WithLabelValues(result)
	}
	return m
}

// trustObserver receives the events of every generation. Its fields may be nil.
type trustObserver struct {
	fetch    func(oidc.Fetch)
	decision func(entry, profile string, d policy.Decision)
}

// newTrustObserver counts the fetches from issuers, and the decisions of policies.
func newTrustObserver(registry prometheus.Registerer) trustObserver {
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_policy_decisions_total",
		Help: "Decisions of the issuer entries' policies: allowed, denied, or error where no rule allowed and one could not be evaluated. In mode audit a denied caller gets its certificate.",
	}, []string{"entry", "profile", "mode", "result"})
	registry.MustRegister(decisions)
	return trustObserver{
		fetch: observeFetches(registry),
		decision: func(entry, profile string, d policy.Decision) {
			mode := policy.ModeEnforce
			if d.Audit {
				mode = policy.ModeAudit
			}
			decisions.WithLabelValues(entry, profile, mode, d.Result()).Inc()
		},
	}
}
