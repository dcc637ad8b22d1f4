// SPDX-License-Identifier: Apache-2.0

package app

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/mayfly-ca/mayfly/config"
)

// newRegistry has the metrics that every process has.
func newRegistry(version string) *prometheus.Registry {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "mayfly_build_info",
		Help:        "1; the labels state the version.",
		ConstLabels: prometheus.Labels{"version": version, "go": runtime.Version()},
	})
	info.Set(1)
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
