// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/identity/policy"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server"
)

// issuerCheck reports the state of the issuers. The failure of an issuer does not affect the tokens
// of others, so the server stays ready.
func issuerCheck(status func() []oidc.IssuerStatus) server.Check {
	return server.Check{Name: "issuers", Probe: func(context.Context) (string, error) { return issuerHealth(status()) }}
}

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
	case entry.IssuerURL == "":
		return string(entry.State) + ", " + count(entry.Issuers, "issuer", "issuers") + " in use"
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
			"ok, degraded (the last fetch failed, the last good keys are in use), failing (no usable keys, tokens are refused).", []string{"entry", "state"}},
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
