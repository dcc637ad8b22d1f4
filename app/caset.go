// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/breaker"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/watch"
	"github.com/mayfly-ca/mayfly/server"
)

// caSet is the CA set in use, which a later set can replace.
type caSet struct {
	cfg     *config.Server
	current atomic.Pointer[set.Set]
	// files are those of the last set that was read; only the watcher uses them.
	files   []string
	ring    *keyring.Ring  // holds the keys
	watcher *watch.Watcher // nil for ca.file, which is read once
	logger  *slog.Logger
	now     func() time.Time
	warn    func(...error)
	digest  string     // of the file of the set at the start; "" for ca.file
	audit   *audit.Log // nil without `audit`
}

// newCASet loads `ca`, by the clock and the modules of options. Its errors state their place.
func newCASet(ctx context.Context, cfg *config.Server, options Options, logger, callers *slog.Logger, registry prometheus.Registerer) (*caSet, error) {
	if path := cfg.CA.SignerSocket; path != "" {
		if err := socket.CheckPath(path); err != nil {
			return nil, cfg.WithPlaces(keypath.Errorf([]string{"ca", "signer_socket"}, "%w", err))
		}
	}
	c := &caSet{
		cfg: cfg, logger: logger, now: options.now(), warn: options.warner(logger),
		ring: keyring.New(keyring.Config{Socket: cfg.CA.SignerSocket, Modules: options.Modules, Metrics: signer.NewMetrics(registry), Logger: callers}),
	}
	if cfg.CA.Set != "" {
		read, _ := set.Read(cfg, c.now())
		c.named(read)
		c.watcher = watch.New(watch.Config{
			Name: "CA set", Files: func() []string { return c.files }, Reload: func() error { return c.reload(context.WithoutCancel(ctx)) },
			Metric: "mayfly_ca_set", FailedMetric: "mayfly_ca_set_reload_failed", Registry: registry,
			Logger: logger, Interval: options.interval,
		})
	}
	// Only the key that must sign now prevents a start, and only if its error is not transient.
	// Readiness reports the other keys, and each is retried every second.
	loaded, err := set.Load(ctx, cfg, c.now(), set.Keys{Ring: c.ring, Offline: options.report != nil, Required: func(m set.Member, err error) bool {
		return m.StateAt(c.now()) == set.Active && !signer.IsTransient(err)
	}})
	if err != nil {
		return nil, errors.Join(err, c.ring.Close())
	}
	c.named(loaded)
	c.warn(loaded.Warnings...)
	c.digest = loaded.Digest()
	c.current.Store(loaded.Set)
	registry.MustRegister(c.metrics())
	return c, nil
}

// named remembers which files are to be watched. A set that could not be read may be nil.
func (c *caSet) named(read *set.Loaded) {
	if read != nil {
		c.files = read.Files(c.cfg.CA.SignerSocket == "")
	} else if c.files == nil {
		c.files = []string{c.cfg.CA.Set}
	}
}

// Active returns the authority that signs at now.
func (c *caSet) Active(now time.Time) (*ca.Authority, error) { return c.current.Load().Active(now) }

// generation returns the generation of the set in use.
func (c *caSet) generation() uint64 { return c.current.Load().Generation() }

// TrustBundle returns the chains that verifiers must know at now.
func (c *caSet) TrustBundle(now time.Time) []*ca.Chain { return c.current.Load().TrustBundle(now) }

// signers returns the authorities of the set in use that have a key.
func (c *caSet) signers() []set.Member {
	return slices.DeleteFunc(c.current.Load().Members(), func(m set.Member) bool { return m.Authority == nil })
}

// reload puts the complete set on disk in use, or returns why it cannot. If it is in use but keys
// of it fail, reload returns these errors, and the watcher retries. Only the watcher calls it.
func (c *caSet) reload(ctx context.Context) error {
	now, current := c.now(), c.current.Load()
	loaded, err := set.Load(ctx, c.cfg, now, set.Keys{Ring: c.ring, Current: current, Required: func(m set.Member, _ error) bool {
		// A key that is new, or begins to sign, must work. Any other would fail without a new set too.
		old, found := current.Member(m.ID)
		return !found || !old.Chain.Equal(m.Chain) || m.StateAt(now) == set.Active && old.StateAt(now) != set.Active
	}})
	c.named(loaded)
	if err == nil {
		err = loaded.Succeeds(current, now)
	}
	if err == nil {
		c.current.Store(loaded.Set)
		c.audit.Event(&audit.Record{Kind: audit.KindReload, CAGeneration: loaded.Set.Generation(), Files: map[string]string{"ca_set": loaded.Digest()}})
	}
	var used []*signer.Signer
	for _, m := range c.signers() {
		used = append(used, m.Authority.Signer())
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

// run watches the set, tends the keys, logs which authority signs whenever that changes, and asks the logs, once for
// each generation, whether they accept the set's roots. It returns when ctx ends.
func (c *caSet) run(ctx context.Context) {
	var asked uint64
	var signs string
	var asking sync.WaitGroup // beside the tending of keys, which a log that hangs must not delay
	defer asking.Wait()
	if c.watcher != nil {
		asking.Go(func() { c.watcher.Run(ctx) })
	}
	ticker := time.NewTicker(watch.Interval)
	defer ticker.Stop()
	for {
		current := c.current.Load()
		if authority, err := current.Active(c.now()); err == nil && authority.ID() != signs {
			if signs != "" { // the record of the start names the first one
				c.audit.Event(&audit.Record{Kind: audit.KindRotation, Authority: authority.ID(), CAGeneration: current.Generation()})
			}
			signs = authority.ID()
			c.logger.LogAttrs(ctx, slog.LevelInfo, "authority signs", slog.String("authority", signs), slog.Uint64("generation", current.Generation()),
				slog.Time("chain_ends", authority.Chain().NotAfter))
		}
		for _, m := range c.signers() {
			m.Authority.Signer().Tend(ctx)
		}
		if current.Generation() != asked {
			asked = current.Generation()
			asking.Go(func() {
				if problems := CheckLogRoots(ctx, c.cfg, current, c.now()); ctx.Err() == nil {
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
		if root := m.Chain.Certificates[len(m.Chain.Certificates)-1]; !slices.ContainsFunc(roots, root.Equal) {
			roots = append(roots, root)
		}
	}
	return roots
}

// checks are the readiness checks of the set.
func (c *caSet) checks(lifetime time.Duration) []server.Check {
	probeActive := func(probe func(context.Context, *ca.Authority) (string, error)) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			authority, err := c.Active(c.now())
			if err != nil {
				return "no authority signs now", err
			}
			return probe(ctx, authority)
		}
	}
	const unavailable = "docs/signers.md#a-key-is-unavailable"
	return []server.Check{
		{Name: "signer", Critical: true, Runbook: unavailable, Probe: probeActive(func(ctx context.Context, authority *ca.Authority) (string, error) {
			return "authority " + authority.ID() + " signs", authority.Signer().Check(ctx)
		})},
		{Name: "ca-certificates", Critical: true, Runbook: "docs/rotation.md#rotate", Probe: probeActive(func(_ context.Context, authority *ca.Authority) (string, error) {
			now, end := c.now(), authority.Chain().NotAfter
			if err := authority.Chain().ValidAt(now); err != nil {
				return "a CA certificate is not valid now", err
			}
			if now.Add(lifetime).After(end) {
				return "a CA certificate ends before a new certificate would", fmt.Errorf("authority %s ends at %s", authority.ID(), end.UTC().Format(time.RFC3339))
			}
			return "valid until " + end.UTC().Format(time.RFC3339), nil
		})},
		{Name: "signers", Runbook: unavailable, Probe: c.checkSigners},
		reloadCheck("ca-set", "docs/rotation.md#a-replica-does-not-take-the-set", c.watcher, func() string { return fmt.Sprintf("generation %d", c.current.Load().Generation()) }),
	}
}

// checkSigners reports the state of the key of every authority, including those that will sign later.
func (c *caSet) checkSigners(context.Context) (detail string, err error) {
	var details []string
	var errs []error
	for _, m := range c.signers() {
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

// metrics publishes the content of the set in use, and when its certificates expire.
func (c *caSet) metrics() *scraped {
	return newScraped(func(set setGauge) {
		now, loaded := c.now(), c.current.Load()
		set("mayfly_ca_set_generation", float64(loaded.Generation()))
		set("mayfly_ca_successor", boolean(loaded.Successor(now)))
		for _, m := range loaded.Members() {
			state := m.StateAt(now).String()
			set("mayfly_ca_authority_state", 1, m.ID, state)
			for i, certificate := range m.Chain.Certificates {
				set("mayfly_ca_certificate_seconds_to_expiry", certificate.NotAfter.Sub(now).Seconds(), m.ID, state, strconv.Itoa(i), certificate.Subject.String())
			}
			if m.Authority == nil || m.Authority.Signer().Status().Local {
				continue
			}
			status := m.Authority.Signer().Status()
			set("mayfly_signer_proven", boolean(status.Proven), m.ID, state, status.Kind)
			for _, b := range breaker.States() {
				set("mayfly_signer_breaker_state", boolean(b == status.State), m.ID, state, status.Kind, string(b))
			}
		}
	},
		gauge{"mayfly_ca_set_generation", "Generation of the CA set in use; the same on every replica.", nil},
		gauge{"mayfly_ca_successor", "1 if an authority is published or staged that can take over from the active one, and ends later.", nil},
		gauge{"mayfly_ca_authority_state", "1 for the state that each authority is in: staged, published, active, retired, compromised or expired.", []string{"authority", "state"}},
		gauge{"mayfly_ca_certificate_seconds_to_expiry", "Seconds until each certificate of each chain ends; negative once it has. Position 0 is the issuing CA. The state is the authority's.",
			[]string{"authority", "state", "position", "subject"}},
		gauge{"mayfly_signer_breaker_state", "1 for the state that the breaker of each key outside of this process is in: closed, half-open (one attempt finds out whether the key has recovered) or open (the key receives no request). The state is the authority's.",
			[]string{"authority", "state", "kind", "breaker"}},
		gauge{"mayfly_signer_proven", "1 if the key outside of this process has made a signature that verified since it was first named.", []string{"authority", "state", "kind"}},
	)
}
