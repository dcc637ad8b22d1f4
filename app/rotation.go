// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/watch"
	"github.com/mayfly-ca/mayfly/server"
)

// rotation keeps the CA set in force up to date.
type rotation struct {
	authorities *ca.Authorities
	// ring holds the keys.
	ring *keyring.Ring
	// path is the set's file; "" for ca.file, which is a set of one that never changes.
	path    string
	watcher *watch.Watcher // nil for ca.file
	now     func() time.Time
	warn    func(...error)
}

// rotate loads `ca`, and starts to watch it.
func (a *App) rotate(ctx context.Context, options Options, registry prometheus.Registerer) (err error) {
	a.rotation, err = newRotation(ctx, a.Config, options, a.logger, registry)
	if err == nil && a.rotation.watcher != nil {
		a.watchers = append(a.watchers, a.rotation.watcher)
	}
	return err
}

// newRotation loads `ca`, by the clock and the modules of options. Its errors state their place.
func newRotation(ctx context.Context, cfg *config.Server, options Options, logger *slog.Logger, registry prometheus.Registerer) (*rotation, error) {
	if path := cfg.CA.SignerSocket; path != "" {
		if err := socket.CheckPath(path); err != nil {
			return nil, cfg.Explain(keypath.Errorf([]string{"ca", "signer_socket"}, "%w", err))
		}
	}
	metrics, now := signer.NewMetrics(registry), options.now()
	r := &rotation{
		ring: keyring.New(keyring.Config{Socket: cfg.CA.SignerSocket, Modules: options.Modules, Metrics: metrics, Logger: slog.New(CallerLines(logger.Handler()))}),
		path: cfg.CA.Set, now: now, warn: options.warner(logger),
	}
	if cfg.CA.File != nil {
		authority, warnings, err := newAuthority(ctx, cfg, metrics)
		if err != nil {
			return nil, cfg.Explain(err)
		}
		r.warn(unjoin(cfg.Explain(errors.Join(warnings...)))...)
		r.authorities = ca.NewAuthorities(ca.SetOf(authority))
		registry.MustRegister(setMetrics(r.authorities, now))
		return r, nil
	}
	r.watcher = watch.New(watch.Config{
		Name: "CA set", Files: []string{r.path}, More: caset.Files(r.path, cfg.CA.SignerSocket == ""),
		Reload: func() error { return r.reload(context.WithoutCancel(ctx)) },
		Metric: "mayfly_ca_set", FailedMetric: "mayfly_ca_set_reload_failed", Registry: registry,
		Logger: logger, Interval: options.interval,
	})
	// Only the key that must sign now prevents a start, and only if its error is not transient.
	// Readiness reports the other keys, and each is retried every second.
	keys := caset.Keys{Ring: r.ring, Offline: options.report != nil, Must: func(m ca.Member, err error) bool {
		return m.StateAt(now()) == ca.Active && !signer.IsTransient(err)
	}}
	loaded, err := caset.Load(ctx, r.path, now(), keys)
	if err != nil {
		err = errors.Join(err, r.ring.Close())
		if _, ok := err.(config.Mistakes); ok {
			return nil, err
		}
		return nil, cfg.Explain(keypath.Errorf([]string{"ca", "set"}, "%w", err))
	}
	r.warn(loaded.Warnings...)
	r.authorities = ca.NewAuthorities(loaded.Set)
	registry.MustRegister(setMetrics(r.authorities, now))
	return r, nil
}

// warner returns the receiver of warnings: the report of a check, or logger.
func (o Options) warner(logger *slog.Logger) func(...error) {
	if o.report != nil {
		return o.report.warn
	}
	return func(warnings ...error) {
		for _, warning := range warnings {
			logger.LogAttrs(context.Background(), slog.LevelWarn, warning.Error())
		}
	}
}

// reload puts the complete set on disk in force, or returns why it cannot. If it is in force but
// keys of it fail, reload returns these errors, and the watcher retries.
func (r *rotation) reload(ctx context.Context) error {
	now, current := r.now(), r.authorities.Set()
	keys := caset.Keys{Ring: r.ring, Current: current, Must: func(m ca.Member, _ error) bool { return startsToMatter(m, current, now) }}
	loaded, err := caset.Load(ctx, r.path, now, keys)
	if err == nil {
		if err = r.authorities.Replace(loaded.Set, now); err != nil {
			err = loaded.File.Explain(err)
		}
	}
	r.ring.Retain(signersOf(r.authorities.Set()))
	if err != nil {
		return err
	}
	if loaded.Set.Generation() != current.Generation() {
		r.warn(loaded.Warnings...)
	}
	return errors.Join(loaded.Failed...)
}

// startsToMatter reports whether m is new beside current, or signs at now and did not before: its
// key must then sign. Any other failing key would fail without a new set too.
func startsToMatter(m ca.Member, current *ca.Set, now time.Time) bool {
	for _, other := range current.Members() {
		if other.ID == m.ID && other.Chain.Equal(m.Chain) {
			return m.StateAt(now) == ca.Active && other.StateAt(now) != ca.Active
		}
	}
	return true
}

// signersOf are the signers of the authorities of a set.
func signersOf(set *ca.Set) (signers []*signer.Signer) {
	for _, m := range set.Members() {
		if m.Authority != nil {
			signers = append(signers, m.Authority.Signer())
		}
	}
	return signers
}

// run tends the keys, logs which authority signs whenever that changes, and asks the logs, once for
// each generation, whether they accept the set's roots. It returns when ctx ends.
func (r *rotation) run(ctx context.Context, cfg *config.Server, logger *slog.Logger) {
	var asked uint64
	var signs string
	var asking sync.WaitGroup // a log that hangs must not delay the tending of keys
	defer asking.Wait()
	ticker := time.NewTicker(watch.Interval)
	defer ticker.Stop()
	for {
		set := r.authorities.Set()
		if authority, err := set.Active(r.now()); err == nil && authority.ID() != signs {
			signs = authority.ID()
			logger.LogAttrs(ctx, slog.LevelInfo, "authority signs", slog.String("authority", signs), slog.Uint64("generation", set.Generation()),
				slog.Time("chain_ends", authority.Chain().NotAfter))
		}
		for _, m := range set.Members() {
			if m.Authority != nil {
				m.Authority.Signer().Tend(ctx)
			}
		}
		if set.Generation() != asked {
			asked = set.Generation()
			asking.Go(func() {
				if problems := CheckLogRoots(ctx, cfg, set, r.now()); ctx.Err() == nil {
					r.warn(problems...)
				}
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// roots are the roots of every authority that has signed or will sign: an embedded log accepts
// these.
func (r *rotation) roots() (roots []*x509.Certificate) {
	for _, m := range r.authorities.Set().Members() {
		root := m.Chain.Certificates[len(m.Chain.Certificates)-1]
		if !slices.ContainsFunc(roots, root.Equal) {
			roots = append(roots, root)
		}
	}
	return roots
}

// checks are the readiness checks of the set.
func (r *rotation) checks(profile *ca.Profile) []server.Check {
	return []server.Check{
		{
			Name:     "signer",
			Critical: true,
			Probe: func(ctx context.Context) (string, error) {
				authority, err := r.authorities.Set().Active(r.now())
				if err != nil {
					return "no authority signs now", err
				}
				return "authority " + authority.ID() + " signs", authority.Signer().Check(ctx)
			},
		},
		{
			Name:     "ca-certificates",
			Critical: true,
			Probe: func(context.Context) (string, error) {
				now := r.now()
				authority, err := r.authorities.Set().Active(now)
				if err != nil {
					return "no authority signs now", err
				}
				if err := authority.ValidAt(now); err != nil {
					return "a CA certificate is not valid now", err
				}
				end := authority.Chain().NotAfter
				if now.Add(profile.Lifetime()).After(end) {
					return "a CA certificate ends before a new certificate would", fmt.Errorf("authority %s ends at %s", authority.ID(), end.UTC().Format(time.RFC3339))
				}
				return "valid until " + end.UTC().Format(time.RFC3339), nil
			},
		},
		{Name: "signers", Probe: r.checkSigners},
		reloadCheck("ca-set", r.watcher, func() string { return fmt.Sprintf("generation %d", r.authorities.Set().Generation()) }),
	}
}

// checkSigners reports the state of the key of every authority, including those that will sign
// later.
func (r *rotation) checkSigners(context.Context) (detail string, err error) {
	var details []string
	var errs []error
	for _, m := range r.authorities.Set().Members() {
		if m.Authority == nil {
			continue
		}
		status := m.Authority.Signer().Status()
		switch {
		case status.Local:
			details = append(details, m.ID+": in this process")
		case status.Proven:
			details = append(details, fmt.Sprintf("%s: %s, breaker %s", m.ID, status.Kind, status.State))
		default:
			details = append(details, fmt.Sprintf("%s: %s, has never signed", m.ID, status.Kind))
		}
		if status.LastError != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.ID, status.LastError))
		}
	}
	return strings.Join(details, "; "), errors.Join(errs...)
}
