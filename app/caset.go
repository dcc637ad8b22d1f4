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
	"sync/atomic"
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

// caSet is the CA set in use, which a later set can replace.
type caSet struct {
	current atomic.Pointer[set.Set]
	source  set.Source
	// ring holds the keys.
	ring    *keyring.Ring
	watcher *watch.Watcher // nil for ca.file, which is read once
	now     func() time.Time
	warn    func(...error)
}

// loadCA loads `ca`, and starts to watch it.
func (a *App) loadCA(ctx context.Context, options Options, registry prometheus.Registerer) (err error) {
	a.authorities, err = newCASet(ctx, a.Config, options, a.logger, registry)
	if err == nil && a.authorities.watcher != nil {
		a.watchers = append(a.watchers, a.authorities.watcher)
	}
	return err
}

// newCASet loads `ca`, by the clock and the modules of options. Its errors state their place.
func newCASet(ctx context.Context, cfg *config.Server, options Options, logger *slog.Logger, registry prometheus.Registerer) (*caSet, error) {
	if path := cfg.CA.SignerSocket; path != "" {
		if err := socket.CheckPath(path); err != nil {
			return nil, cfg.WithPlaces(keypath.Errorf([]string{"ca", "signer_socket"}, "%w", err))
		}
	}
	c := &caSet{
		source: set.SourceOf(cfg), now: options.now(), warn: options.warner(logger),
		ring: keyring.New(keyring.Config{Socket: cfg.CA.SignerSocket, Modules: options.Modules, Metrics: signer.NewMetrics(registry), Logger: slog.New(CallerLines(logger.Handler()))}),
	}
	if path := c.source.Path; path != "" {
		c.watcher = watch.New(watch.Config{
			Name: "CA set", Files: []string{path}, More: set.Files(path, cfg.CA.SignerSocket == ""),
			Reload: func() error { return c.reload(context.WithoutCancel(ctx)) },
			Metric: "mayfly_ca_set", FailedMetric: "mayfly_ca_set_reload_failed", Registry: registry,
			Logger: logger, Interval: options.interval,
		})
	}
	// Only the key that must sign now prevents a start, and only if its error is not transient.
	// Readiness reports the other keys, and each is retried every second.
	loaded, err := set.Load(ctx, c.source, c.now(), set.Keys{Ring: c.ring, Offline: options.report != nil, Must: func(m set.Member, err error) bool {
		return m.StateAt(c.now()) == set.Active && !signer.IsTransient(err)
	}})
	if err != nil {
		if _, ok := err.(config.Mistakes); !ok && cfg.File() != nil { // the file itself cannot be read
			err = cfg.WithPlaces(keypath.Errorf([]string{"ca", "set"}, "%w", err))
		}
		return nil, errors.Join(err, c.ring.Close())
	}
	c.warn(loaded.Warnings...)
	c.current.Store(loaded.Set)
	registry.MustRegister(setMetrics(c))
	return c, nil
}

// Active returns the authority that signs at now.
func (c *caSet) Active(now time.Time) (*ca.Authority, error) { return c.current.Load().Active(now) }

// TrustBundle returns the chains that verifiers must know at now.
func (c *caSet) TrustBundle(now time.Time) []*ca.Chain { return c.current.Load().TrustBundle(now) }

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

// reload puts the complete set on disk in use, or returns why it cannot. If it is in use but keys
// of it fail, reload returns these errors, and the watcher retries. Only the watcher calls it.
func (c *caSet) reload(ctx context.Context) error {
	now, current := c.now(), c.current.Load()
	loaded, err := set.Load(ctx, c.source, now, set.Keys{Ring: c.ring, Current: current, Must: func(m set.Member, _ error) bool {
		// A key that is new, or begins to sign, must work. Any other would fail without a new set too.
		old, found := current.Member(m.ID)
		return !found || !old.Chain.Equal(m.Chain) || m.StateAt(now) == set.Active && old.StateAt(now) != set.Active
	}})
	if err == nil {
		err = loaded.Succeeds(current, now)
	}
	if err == nil {
		c.current.Store(loaded.Set)
	}
	var used []*signer.Signer
	for _, m := range c.current.Load().Members() {
		if m.Authority != nil {
			used = append(used, m.Authority.Signer())
		}
	}
	c.ring.Retain(used)
	if err != nil {
		return err
	}
	if loaded.Set.Generation() != current.Generation() {
		c.warn(loaded.Warnings...)
	}
	return errors.Join(loaded.Failed...)
}

// run tends the keys, logs which authority signs whenever that changes, and asks the logs, once for
// each generation, whether they accept the set's roots. It returns when ctx ends.
func (c *caSet) run(ctx context.Context, cfg *config.Server, logger *slog.Logger) {
	var asked uint64
	var signs string
	var asking sync.WaitGroup // a log that hangs must not delay the tending of keys
	defer asking.Wait()
	ticker := time.NewTicker(watch.Interval)
	defer ticker.Stop()
	for {
		current := c.current.Load()
		if authority, err := current.Active(c.now()); err == nil && authority.ID() != signs {
			signs = authority.ID()
			logger.LogAttrs(ctx, slog.LevelInfo, "authority signs", slog.String("authority", signs), slog.Uint64("generation", current.Generation()),
				slog.Time("chain_ends", authority.Chain().NotAfter))
		}
		for _, m := range current.Members() {
			if m.Authority != nil {
				m.Authority.Signer().Tend(ctx)
			}
		}
		if current.Generation() != asked {
			asked = current.Generation()
			asking.Go(func() {
				if problems := CheckLogRoots(ctx, cfg, current, c.now()); ctx.Err() == nil {
					c.warn(problems...)
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
func (c *caSet) roots() (roots []*x509.Certificate) {
	for _, m := range c.current.Load().Members() {
		root := m.Chain.Certificates[len(m.Chain.Certificates)-1]
		if !slices.ContainsFunc(roots, root.Equal) {
			roots = append(roots, root)
		}
	}
	return roots
}

// checks are the readiness checks of the set.
func (c *caSet) checks(profile *ca.Profile) []server.Check {
	return []server.Check{
		{
			Name:     "signer",
			Critical: true,
			Probe: func(ctx context.Context) (string, error) {
				authority, err := c.current.Load().Active(c.now())
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
				now := c.now()
				authority, err := c.current.Load().Active(now)
				if err != nil {
					return "no authority signs now", err
				}
				if err := authority.Chain().ValidAt(now); err != nil {
					return "a CA certificate is not valid now", err
				}
				end := authority.Chain().NotAfter
				if now.Add(profile.Lifetime()).After(end) {
					return "a CA certificate ends before a new certificate would", fmt.Errorf("authority %s ends at %s", authority.ID(), end.UTC().Format(time.RFC3339))
				}
				return "valid until " + end.UTC().Format(time.RFC3339), nil
			},
		},
		{Name: "signers", Probe: c.checkSigners},
		reloadCheck("ca-set", c.watcher, func() string { return fmt.Sprintf("generation %d", c.current.Load().Generation()) }),
	}
}

// checkSigners reports the state of the key of every authority, including those that will sign
// later.
func (c *caSet) checkSigners(context.Context) (detail string, err error) {
	var details []string
	var errs []error
	for _, m := range c.current.Load().Members() {
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
