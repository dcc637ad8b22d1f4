// SPDX-License-Identifier: Apache-2.0

package app

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/identity/policy"
	"github.com/mayfly-ca/mayfly/oidc"
)

// newRegistry has the metrics that every process has.
func newRegistry(version string) *prometheus.Registry {
	info := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "mayfly_build_info",
		Help:        "1; the labels state the version.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()},
	}, func() float64 { return 1 })
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info)
	return registry
}

// scraped are gauges that are read at the moment of the scrape, since the clock alone changes them.
type scraped struct {
	descs map[string]*prometheus.Desc
	read  func(gauge setGauge)
}

// setGauge sets the gauge called name, with the values of its labels.
type setGauge func(name string, value float64, labels ...string)

// gauge describes one of scraped.
type gauge struct {
	name, help string
	labels     []string
}

func newScraped(read func(setGauge), gauges ...gauge) *scraped {
	s := &scraped{descs: map[string]*prometheus.Desc{}, read: read}
	for _, g := range gauges {
		s.descs[g.name] = prometheus.NewDesc(g.name, g.help, g.labels, nil)
	}
	return s
}

// Describe implements prometheus.Collector.
func (s *scraped) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range s.descs {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (s *scraped) Collect(ch chan<- prometheus.Metric) {
	s.read(func(name string, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(s.descs[name], prometheus.GaugeValue, value, labels...)
	})
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// ctMetrics publishes whether certificates are logged, and when logs retire.
func ctMetrics(cfg *config.Server, now func() time.Time) *scraped {
	return newScraped(func(set setGauge) {
		set("mayfly_ct_disabled", boolean(cfg.CT.Disabled))
		for _, entry := range cfg.CT.Logs {
			name := entry.URL
			if entry.Embedded != nil {
				name = entry.Embedded.Origin
			}
			if !entry.RetireAt.IsZero() {
				set("mayfly_ct_log_seconds_to_retirement", entry.RetireAt.Sub(now()).Seconds(), name)
			}
		}
	},
		gauge{"mayfly_ct_disabled", "1 if certificates are issued without Certificate Transparency.", nil},
		gauge{"mayfly_ct_log_seconds_to_retirement", "Seconds until the retire_at of each Certificate Transparency log that has one; negative from then on, and the log receives no more submissions.", []string{"log"}},
	)
}

// issuerMetrics publishes the state of the issuer entries.
func issuerMetrics(status func() []oidc.IssuerStatus) *scraped {
	const state, success = "mayfly_oidc_issuer_state", "mayfly_oidc_issuer_last_success_timestamp_seconds"
	const age, inUse = "mayfly_oidc_issuer_key_age_seconds", "mayfly_oidc_wildcard_issuers"
	return newScraped(func(set setGauge) {
		for _, entry := range status() {
			for _, s := range oidc.States() {
				set(state, boolean(s == entry.State), entry.Entry, string(s))
			}
			at := 0.0
			if !entry.LastSuccess.IsZero() {
				at = float64(entry.LastSuccess.UnixMilli()) / 1000
			}
			set(success, at, entry.Entry)
			switch {
			case entry.IssuerURL == "":
				set(inUse, float64(entry.Issuers), entry.Entry)
			case !entry.LastSuccess.IsZero():
				set(age, entry.KeyAge.Seconds(), entry.Entry)
			}
		}
	},
		gauge{state, "1 for the state that the issuer entry is in, 0 for the others: pending (not asked or not answered yet), " +
			"ok, degraded (the last fetch failed, the last good keys are in use), failing (no usable keys, tokens are refused), disabled (by the operator).", []string{"entry", "state"}},
		gauge{success, "When keys of the issuer entry were last read, in Unix time; 0 for never.", []string{"entry"}},
		gauge{age, "Age of the keys of a static issuer entry that has some; they are trusted until oidc.key_lifetime.", []string{"entry"}},
		gauge{inUse, "Issuers with usable keys that are in use under a wildcard entry.", []string{"entry"}},
	)
}

// trustObserver receives the events of every generation. Its fields may be nil.
type trustObserver struct {
	fetch    func(oidc.Fetch)
	decision func(entry, profile string, d policy.Decision)
}

// newTrustObserver counts and times the fetches from issuers, and counts the decisions of policies.
func newTrustObserver(registry prometheus.Registerer) trustObserver {
	fetches := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_oidc_fetches_total",
		Help: "Fetches of discovery documents and key sets, by issuer entry, document, and result.",
	}, []string{"entry", "document", "result"})
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "mayfly_oidc_fetch_duration_seconds",
		Help:    "Time that fetches of discovery documents and key sets took, failed ones included.",
		Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5},
	}, []string{"entry", "document"})
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_policy_decisions_total",
		Help: "Decisions of the issuer entries' policies: allowed, denied, or error where no rule allowed and one could not be evaluated. In mode audit a denied caller gets its certificate.",
	}, []string{"entry", "profile", "mode", "result"})
	registry.MustRegister(fetches, durations, decisions)
	return trustObserver{
		fetch: func(f oidc.Fetch) {
			result := "ok"
			if f.Err != nil {
				result = "error"
			}
			fetches.WithLabelValues(f.Entry, f.Document, result).Inc()
			durations.WithLabelValues(f.Entry, f.Document).Observe(f.Duration.Seconds())
		},
		decision: func(entry, profile string, d policy.Decision) {
			mode := policy.ModeEnforce
			if d.Audit {
				mode = policy.ModeAudit
			}
			decisions.WithLabelValues(entry, profile, mode, d.Result()).Inc()
		},
	}
}
