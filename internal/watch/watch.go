// SPDX-License-Identifier: Apache-2.0

// Package watch finds changed files by polling their content. Notifications of the operating system
// miss a rename over the file and Kubernetes' swap of the `..data` symlink. It may be imported by app.
package watch

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/internal/files"
)

// Interval is how often the watcher reads the files by default. It loads content once two readings
// in a row have found the same: a file that is still being written in place may be well-formed
// half-way, such as a CA set that lacks its last line.
const Interval = time.Second

// Content that failed to load is retried first after firstRetry, then after twice as long each time,
// up to retryInterval: the cause may be outside of the files, such as a signer that cannot be reached.
const (
	firstRetry    = 2 * time.Second
	retryInterval = 30 * time.Second
)

// maxFileSize bounds what is read of one file.
const maxFileSize = 4 << 20

// Config states what to watch and what to do.
type Config struct {
	// Name names the files in log records, as in "TLS certificate".
	Name string
	// Files returns the files of the group. The watcher calls it before each reading.
	Files func() []string
	// Reload loads the new content. While it returns an error or panics, the loaded content stays.
	Reload func() error
	Logger *slog.Logger
	// Interval is how often to read the files; 0 for the constant of that name.
	Interval time.Duration
	// Metric is the prefix of the counter `…_reloads_total`, and FailedMetric the name of the gauge
	// that is 1 while the content on disk is not the one in use; both "" for none.
	Metric, FailedMetric string
	// Quiet is for content that Reload only compares: Reload gets the content at the start too, and a
	// success is not logged.
	Quiet    bool
	Registry prometheus.Registerer
}

// Watcher watches one group of files. Its Run may be called once.
type Watcher struct {
	config  Config
	reloads *prometheus.CounterVec
	failed  prometheus.Gauge
	failure atomic.Pointer[error] // of the last reload; nil after a success
	// loaded is the digest of the content at the last call of Reload, and latest of the last reading.
	loaded, latest [sha256.Size]byte
	// retryAt is when to load the same content again, after failures times; zero after a success.
	retryAt  time.Time
	failures int
}

// New returns a watcher that treats the present content of the files as known. Call it before the
// files are loaded for the first time, so that no change falls in between.
func New(config Config) *Watcher {
	if config.Interval == 0 {
		config.Interval = Interval
	}
	w := &Watcher{config: config}
	w.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: config.Metric + "_reloads_total",
		Help: "Reloads of the " + config.Name + " after a change, by result. After an error the last good one stays in use.",
	}, []string{"result"})
	w.failed = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: config.FailedMetric,
		Help: "1 while a change of the " + config.Name + " on disk could not be loaded completely.",
	})
	if config.Metric != "" {
		config.Registry.MustRegister(w.reloads, w.failed)
	}
	for _, result := range []string{"ok", "error"} {
		w.reloads.WithLabelValues(result)
	}
	if !config.Quiet {
		w.loaded = digest(config.Files())
		w.latest = w.loaded
	}
	return w
}

// Run polls until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	ticker := time.NewTicker(w.config.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.poll(ctx)
		}
	}
}

// poll loads content that is new or to be retried, if two readings agree. Reload decides whether an
// unreadable file matters.
func (w *Watcher) poll(ctx context.Context) {
	names := w.config.Files()
	now := digest(names)
	rests := now == w.latest
	w.latest = now
	retry := !w.retryAt.IsZero() && !time.Now().Before(w.retryAt)
	if !rests || now == w.loaded && !retry {
		return
	}
	if now != w.loaded {
		w.failures = 0
	}
	w.loaded, w.retryAt = now, time.Time{}
	what := []slog.Attr{slog.String("what", w.config.Name), slog.Any("files", names)}
	if err := w.Reload(); err != nil {
		w.retryAt = time.Now().Add(min(firstRetry<<min(w.failures, 10), retryInterval))
		w.failures++
		w.config.Logger.LogAttrs(ctx, slog.LevelError, "reloading: the last good one stays in use", append(what, slog.String("error", err.Error()))...)
		return
	}
	if !w.config.Quiet {
		w.config.Logger.LogAttrs(ctx, slog.LevelInfo, "reloaded", what...)
	}
}

// Reload calls Config.Reload and records the result.
func (w *Watcher) Reload() (err error) {
	defer func() {
		if p := recover(); p != nil { // a fault in a parser must not stop the process
			err = fmt.Errorf("panic while loading: %v", p)
		}
		if err != nil {
			w.reloads.WithLabelValues("error").Inc()
			w.failed.Set(1)
			w.failure.Store(&err)
			return
		}
		w.reloads.WithLabelValues("ok").Inc()
		w.failed.Set(0)
		w.failure.Store(nil)
	}()
	return w.config.Reload()
}

// Failure is why the content on disk is not in use completely; nil where it is, and for a nil Watcher.
func (w *Watcher) Failure() error {
	if w == nil {
		return nil
	}
	if err := w.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// digest is the SHA-256 over the length and content of each file; the error text of a file that
// cannot be read counts as its content.
func digest(names []string) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, name := range names {
		content, err := files.Read(name, maxFileSize)
		if err != nil {
			content = []byte(err.Error())
		}
		fmt.Fprintf(h, "%d %t\n", len(content), err == nil)
		h.Write(content)
	}
	h.Sum(sum[:0])
	return sum
}
