// SPDX-License-Identifier: Apache-2.0

package app

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
)

// register publishes what the set is, and when its certificates end. Everything is asked at
// the moment of the scrape, since the clock alone changes most of it.
func (r *rotation) register(registry prometheus.Registerer) {
	r.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_ca_set_reloads_total",
		Help: "Times that the CA set was read again, by result: ok, or error, after which the last good one stays in force.",
	}, []string{"result"})
	r.lastFailed = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mayfly_ca_set_reload_failed",
		Help: "1 if the CA set on disk could not be put in force when it was last read.",
	})
	registry.MustRegister(r.reloads, r.lastFailed, setCollector{authorities: r.authorities, now: r.now})
}

// setCollector is the metrics of the set in force.
type setCollector struct {
	authorities *ca.Authorities
	now         func() time.Time
}

type setDescs struct{ generation, state, successor, expiry *prometheus.Desc }

func (setCollector) descs() setDescs {
	return setDescs{
		generation: prometheus.NewDesc("mayfly_ca_set_generation", "Generation of the CA set in force; the same on every replica.", nil, nil),
		state:      prometheus.NewDesc("mayfly_ca_authority_state", "1 for the state that each authority is in: staged, published, active, retired or expired.", []string{"authority", "state"}, nil),
		successor:  prometheus.NewDesc("mayfly_ca_successor", "1 if an authority is published or staged that can take over from the active one, and ends later.", nil, nil),
		expiry: prometheus.NewDesc("mayfly_ca_certificate_seconds_to_expiry",
			"Seconds until each certificate of each chain ends; negative once it has. Position 0 is the issuing CA. The state is the authority's.",
			[]string{"authority", "state", "position", "subject"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c setCollector) Describe(ch chan<- *prometheus.Desc) {
	d := c.descs()
	for _, desc := range []*prometheus.Desc{d.generation, d.state, d.successor, d.expiry} {
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
	successor := 0.0
	if set.Successor(now) {
		successor = 1
	}
	for _, m := range set.Members() {
		state := m.StateAt(now)
		gauge(d.state, 1, m.ID, state.String())
		for i, certificate := range m.Chain.Certificates {
			gauge(d.expiry, certificate.NotAfter.Sub(now).Seconds(), m.ID, state.String(), strconv.Itoa(i), certificate.Subject.String())
		}
	}
	gauge(d.successor, successor)
}
