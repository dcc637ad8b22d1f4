// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are the metrics of one log.
type metrics struct {
	stored, failed  prometheus.Counter
	duration, guard prometheus.Histogram
	size, refused   prometheus.Gauge
}

// newMetrics registers the metrics with the label "log". It panics for a second log of one name.
func newMetrics(reg prometheus.Registerer, name string) *metrics {
	auto := promauto.With(prometheus.WrapRegistererWith(prometheus.Labels{"log": name}, reg))
	adds := auto.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_ctlog_adds_total",
		Help: "Entries submitted to an embedded log, by log and result (stored, failed).",
	}, []string{"result"})
	return &metrics{
		stored: adds.WithLabelValues("stored"), failed: adds.WithLabelValues("failed"),
		duration: auto.NewHistogram(prometheus.HistogramOpts{
			Name:    "mayfly_ctlog_add_duration_seconds",
			Help:    "Time from an entry's submission to an embedded log until it is durable and guarded.",
			Buckets: []float64{.0025, .005, .01, .015, .02, .03, .05, .08, .15, .3, 1, 4},
		}),
		guard: auto.NewHistogram(prometheus.HistogramOpts{
			Name:    "mayfly_ctlog_guard_duration_seconds",
			Help:    "Time to prove and write down an embedded log's newest tree, once a batch.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .5},
		}),
		size: auto.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_ctlog_checkpoint_size",
			Help: "Entries in the newest checkpoint that an embedded log has signed.",
		}),
		refused: auto.NewGauge(prometheus.GaugeOpts{
			Name: "mayfly_ctlog_refused",
			Help: "1 if an embedded log refuses to sign for good; mayfly ctlog status says what to do.",
		}),
	}
}
