// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/oidc"
)

// issuerHealth returns each issuer entry's state, for the public. Its error, for the operator,
// lists the entries with refused tokens or old keys.
func issuerHealth(entries []oidc.IssuerStatus) (detail string, err error) {
	var states []string
	for _, entry := range entries {
		states = append(states, entry.Entry+": "+describeIssuer(entry))
		switch {
		case entry.State == oidc.StatePending && entry.IssuerURL != "":
			err = errors.Join(err, fmt.Errorf("%s: no answer yet", entry.Entry))
		case entry.LastError != "":
			err = errors.Join(err, fmt.Errorf("%s: %s", entry.Entry, entry.LastError))
		}
	}
	slices.Sort(states)
	return strings.Join(states, "; "), err
}

// describeIssuer returns the state of an entry, without the text of its errors.
func describeIssuer(entry oidc.IssuerStatus) string {
	switch {
	case entry.IssuerURL == "" && entry.Issuers == 1:
		return string(entry.State) + ", 1 issuer in use"
	case entry.IssuerURL == "":
		return fmt.Sprintf("%s, %d issuers in use", entry.State, entry.Issuers)
	case entry.LastSuccess.IsZero():
		return string(entry.State) + ", no keys yet"
	case !entry.Usable && entry.Keys == 0:
		return string(entry.State) + ", no key in its key set"
	case !entry.Usable:
		return fmt.Sprintf("%s, keys too old at %s", entry.State, entry.KeyAge.Round(time.Second))
	default:
		return fmt.Sprintf("%s, keys %s old", entry.State, entry.KeyAge.Round(time.Second))
	}
}

// issuerMetrics publishes the state of the issuer entries at the moment of the scrape.
type issuerMetrics struct {
	status func() []oidc.IssuerStatus
}

func issuerDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("mayfly_oidc_"+name, help, append([]string{"entry"}, labels...), nil)
}

func issuerStateDesc() *prometheus.Desc {
	return issuerDesc("issuer_state", "1 for the state that the issuer entry is in, 0 for the others: pending (not asked or not answered yet), "+
		"ok, degraded (the last fetch failed, the last good keys are in use), failing (no usable keys, tokens are refused).", "state")
}

func issuerSuccessDesc() *prometheus.Desc {
	return issuerDesc("issuer_last_success_timestamp_seconds", "When keys of the issuer entry were last read, in Unix time; 0 for never.")
}

func issuerKeyAgeDesc() *prometheus.Desc {
	return issuerDesc("issuer_key_age_seconds", "Age of the keys of a static issuer entry that has some; they are trusted until oidc.key_lifetime.")
}

func issuersInUseDesc() *prometheus.Desc {
	return issuerDesc("wildcard_issuers", "Issuers with usable keys that are in use under a wildcard entry.")
}

// Describe implements prometheus.Collector.
func (issuerMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{issuerStateDesc(), issuerSuccessDesc(), issuerKeyAgeDesc(), issuersInUseDesc()} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (m issuerMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	for _, entry := range m.status() {
		for _, state := range oidc.States() {
			value := 0.0
			if state == entry.State {
				value = 1
			}
			gauge(issuerStateDesc(), value, entry.Entry, string(state))
		}
		success := 0.0
		if !entry.LastSuccess.IsZero() {
			success = float64(entry.LastSuccess.UnixMilli()) / 1000
		}
		gauge(issuerSuccessDesc(), success, entry.Entry)
		switch {
		case entry.IssuerURL == "":
			gauge(issuersInUseDesc(), float64(entry.Issuers), entry.Entry)
		case !entry.LastSuccess.IsZero():
			gauge(issuerKeyAgeDesc(), entry.KeyAge.Seconds(), entry.Entry)
		}
	}
}

// observeFetches counts and times the fetches from issuers.
func observeFetches(registry prometheus.Registerer) func(oidc.Fetch) {
	fetches := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_oidc_fetches_total",
		Help: "Fetches of discovery documents and key sets, by issuer entry, document, and result.",
	}, []string{"entry", "document", "result"})
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "mayfly_oidc_fetch_duration_seconds",
		Help:    "Time that fetches of discovery documents and key sets took, failed ones included.",
		Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5},
	}, []string{"entry", "document"})
	registry.MustRegister(fetches, durations)
	return func(f oidc.Fetch) {
		result := "ok"
		if f.Err != nil {
			result = "error"
		}
		fetches.WithLabelValues(f.Entry, f.Document, result).Inc()
		durations.WithLabelValues(f.Entry, f.Document).Observe(f.Duration.Seconds())
	}
}
