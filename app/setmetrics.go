// SPDX-License-Identifier: Apache-2.0

package app

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/breaker"
)

// register publishes the content of the set, and when its certificates expire. Everything is read
// at the moment of the scrape, since the clock alone changes most of it.
func (r *rotation) register(registry prometheus.Registerer) {
	r.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_ca_set_reloads_total",
		Help: "Times that the CA set was read again, by result: ok, or error, after which the last good one stays in force.",
	}, []string{"result"})
	r.lastFailed = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mayfly_ca_set_reload_failed",
		Help: "1 if the CA set on disk could not be put in force when it was last read, or a key of it could not sign.",
	})
	registry.MustRegister(r.reloads, r.lastFailed, setCollector{authorities: r.authorities, now: r.now})
}

// setCollector is the metrics of the set in force.
type setCollector struct {
	authorities *ca.Authorities
	now         func() time.Time
}

type setDescs struct{ generation, state, successor, expiry, breaker, proven *prometheus.Desc }

func (setCollector) descs() setDescs {
	return setDescs{
		generation: prometheus.NewDesc("mayfly_ca_set_generation", "Generation of the CA set in force; the same on every replica.", nil, nil),
		state:      prometheus.NewDesc("mayfly_ca_authority_state", "1 for the state that each authority is in: staged, published, active, retired, compromised or expired.", []string{"authority", "state"}, nil),
		successor:  prometheus.NewDesc("mayfly_ca_successor", "1 if an authority is published or staged that can take over from the active one, and ends later.", nil, nil),
		expiry: prometheus.NewDesc("mayfly_ca_certificate_seconds_to_expiry",
			"Seconds until each certificate of each chain ends; negative once it has. Position 0 is the issuing CA. The state is the authority's.",
			[]string{"authority", "state", "position", "subject"}, nil),
		breaker: prometheus.NewDesc("mayfly_signer_breaker_state",
			"1 for the state that the breaker of each key outside of this process is in: closed, half-open (one attempt finds out whether it is well again) or open (it is not asked). The state is the authority's.",
			[]string{"authority", "state", "kind", "breaker"}, nil),
		proven: prometheus.NewDesc("mayfly_signer_proven", "1 if the key outside of this process has made a signature that verified since it was first named.", []string{"authority", "state", "kind"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c setCollector) Describe(ch chan<- *prometheus.Desc) {
	d := c.descs()
	for _, desc := range []*prometheus.Desc{d.generation, d.state, d.successor, d.expiry, d.breaker, d.proven} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (c setCollector) Collect(ch chan<- prometheus.Metric) {
	d, now, set := c.descs(), c.now(), c.authorities.Set()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	gauge(d.generation, float64(set.Generation()))
	for _, m := range set.Members() {
		state := m.StateAt(now)
		gauge(d.state, 1, m.ID, state.String())
		for i, certificate := range m.Chain.Certificates {
			gauge(d.expiry, certificate.NotAfter.Sub(now).Seconds(), m.ID, state.String(), strconv.Itoa(i), certificate.Subject.String())
		}
		if m.Authority == nil || m.Authority.Signer().Status().Local {
			continue
		}
		status := m.Authority.Signer().Status()
		gauge(d.proven, boolean(status.Proven), m.ID, state.String(), status.Kind)
		for _, b := range breaker.States() {
			gauge(d.breaker, boolean(b == status.State), m.ID, state.String(), status.Kind, b.String())
		}
	}
	gauge(d.successor, boolean(set.Successor(now)))
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
