// SPDX-License-Identifier: Apache-2.0

package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Quick looks for changed files every few milliseconds.
func (o Options) Quick() Options {
	o.interval = 10 * time.Millisecond
	return o
}

// Metrics returns the metrics of a server, and of `mayfly signer`.
func (a *App) Metrics() *prometheus.Registry {
	refusals(a.registry)
	return a.registry
}
