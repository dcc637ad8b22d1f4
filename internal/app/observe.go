// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server"
)

// checks is what readiness is made of. An issuer that is out makes nobody else's
// certificates worse, so it shows in the report and turns nothing red; a key that does not
// sign, or a CA that is about to end, does.
func checks(rotation *rotation, profile *ca.Profile, verifier *oidc.Verifier, ctDisabled bool) []server.Check {
	list := append(rotation.checks(profile), server.Check{
		Name: "issuers",
		Probe: func(context.Context) (string, error) {
			return issuerHealth(verifier.Status())
		},
	})
	if ctDisabled {
		list = append(list, server.Check{
			Name:  "certificate-transparency",
			Probe: func(context.Context) (string, error) { return "disabled by configuration", nil },
		})
	}
	return list
}

// issuerHealth tells each issuer entry's state, and an error where one is failing.
func issuerHealth(entries []oidc.IssuerStatus) (detail string, err error) {
	counts := make(map[oidc.State]int)
	var states []string
	for _, entry := range entries {
		counts[entry.State]++
		states = append(states, fmt.Sprintf("%s: %s", entry.Entry, entry.State))
		if entry.State == oidc.StateFailing {
			err = errors.Join(err, fmt.Errorf("%s: %s", entry.Entry, entry.LastError))
		}
	}
	slices.Sort(states)
	return strings.Join(states, "; "), err
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

// observeFetches counts what is fetched from issuers.
func observeFetches(registry prometheus.Registerer) func(oidc.Fetch) {
	fetches := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_oidc_fetches_total",
		Help: "Fetches of discovery documents and key sets, by issuer entry, document, and result.",
	}, []string{"entry", "document", "result"})
	registry.MustRegister(fetches)
	return func(f oidc.Fetch) {
		result := "ok"
		if f.Err != nil {
			result = "error"
		}
		fetches.WithLabelValues(f.Entry, f.Document, result).Inc()
	}
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
