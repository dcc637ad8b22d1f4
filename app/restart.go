// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/watch"
)

// watchConfig notices changes of the configuration file, which is in use only from the next start.
func (a *App) watchConfig(ctx context.Context) {
	pending := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mayfly_config_restart_pending",
		Help: "1 while the configuration file differs from the configuration in use: a restart would change it, or fail.",
	})
	a.registry.MustRegister(pending)
	differs := false
	a.watch(watch.Config{
		Name: "configuration file", Files: func() []string { return []string{a.Config.Name()} }, Quiet: true,
		Reload: func() error {
			differs = a.compareConfig(context.WithoutCancel(ctx), differs)
			pending.Set(boolean(differs))
			a.restartPending.Store(differs)
			return nil
		},
	})
}

// compareConfig logs how the configuration file differs from the configuration in use, and whether a start
// with it would fail. It reports whether they differ, and differed states whether they did before.
func (a *App) compareConfig(ctx context.Context, differed bool) bool {
	attrs := []slog.Attr{slog.String("file", a.Config.Name())}
	next, _, err := config.LoadServer(a.Config.Name(), a.options.Environ)
	if err == nil {
		changed := a.Config.Changes(next)
		if len(changed) == 0 {
			if differed {
				a.logger.LogAttrs(ctx, slog.LevelInfo, "the configuration file is the one in use again", attrs...)
			}
			return false
		}
		attrs = append(attrs, slog.Any("changed", changed))
		report := &CheckReport{}
		var t *trust
		if _, t, err = report.build(ctx, CheckOptions{File: a.Config.Name(), Environ: a.options.Environ}); t != nil {
			report.runTests(next, t)
		}
		err = errors.Join(append(report.Mistakes, err)...)
	}
	if err == nil {
		a.logger.LogAttrs(ctx, slog.LevelWarn, "the configuration file has changed: the changes take effect at a restart", attrs...)
		return true
	}
	a.logger.LogAttrs(ctx, slog.LevelError, "the configuration file has changed, and a start with it would fail: the old one stays in use until then", attrs...)
	logError(a.logger, slog.LevelError, err)
	return true
}
