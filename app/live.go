// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
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

	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/internal/watch"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server"
)

// linger is how long the background of a replaced generation continues: requests that began under
// it may wait for its keys, and none takes as long as this.
const linger = 10 * time.Second

// generation decides one request, from its start to its end: the content of an issuer file at one
// time, and the CA that trusts it. It is immutable, and does not keep the settings of thousands of
// entries beside the objects that were built from them.
type generation struct {
	number   uint64 // from 1, one more with each load
	loaded   time.Time
	digest   string // of the issuer file
	verifier *oidc.Verifier
	infos    []server.IssuerInfo
	ca       *ca.CA
}

// live is the authority that the edge uses: at each moment, the newest generation that loaded.
type live struct {
	app *App
	// base is the CA without the parts of a generation: Verifier, Rules, Generation.
	base     ca.Config
	observer trustObserver
	number   prometheus.Gauge // of the generation in use
	hash     prometheus.Gauge // of its issuer file
	watcher  *watch.Watcher
	first    *trust // what was read before base was set; nil once it is in use, except for a check

	current atomic.Pointer[generation]
	// swapped wakes Run; it has room for one.
	swapped chan struct{}
}

// trust reads the issuer file, and starts to watch it: each change creates a new generation.
func (a *App) trust(ctx context.Context) (err error) {
	l := &live{app: a, observer: newTrustObserver(a.registry), swapped: make(chan struct{}, 1), number: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mayfly_config_generation",
		Help: "Number of the issuer configuration in use, one more with each that was loaded since the start.",
	}), hash: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mayfly_config_hash",
		Help: "A number out of the SHA-256 of the issuer file in use; the same on every replica with the same file.",
	})}
	a.live = l
	a.registry.MustRegister(l.number, l.hash)
	if file := a.Config.OIDC.ProxyCAFile; file != "" {
		if a.Config.OIDC.ProxyRoots, err = readRoots(file); err != nil {
			return a.Config.WithPlaces(keypath.Errorf([]string{"oidc", "proxy_ca_file"}, "reading the CA certificates: %w", err))
		}
	}
	// The watcher takes the current content as known, so it comes before the first read.
	l.watcher = a.watch(watch.Config{
		Name: "issuers", Files: func() []string { return []string{a.Config.Issuers} }, Reload: func() error {
			t, err := l.read()
			if err != nil {
				return err
			}
			return l.use(context.WithoutCancel(ctx), t)
		},
		Metric: "mayfly_config", FailedMetric: "mayfly_config_stale",
	})
	if l.first, err = l.read(); err != nil && !errors.As(err, new(config.Mistakes)) {
		return a.Config.WithPlaces(keypath.Errorf([]string{"issuers"}, "%w", err))
	}
	return err
}

// read reads the issuer file, runs its tests, and passes warnings to warn.
func (l *live) read() (*trust, error) {
	t, warnings, err := loadTrust(l.app.Config, l.app.Config.Issuers, l.app.callers, l.observer)
	l.app.warn(warnings...)
	if err == nil && l.app.options.report == nil { // a check runs them after it has built all parts
		_, warnings, err = t.runTests(l.app.Config)
		l.app.warn(warnings...)
	}
	return t, err
}

// use puts t into use as the next generation, completely or not at all. Calls of it never overlap.
func (l *live) use(ctx context.Context, t *trust) error {
	next := &generation{number: 1, loaded: l.base.Now(), digest: t.issuers.File.Digest(), verifier: t.verifier, infos: t.infos}
	if last := l.current.Load(); last != nil {
		next.number = last.number + 1
		t.verifier.Inherit(last.verifier)
	}
	parts := l.base
	parts.Verifier, parts.Rules, parts.Generation = t.verifier, t.rules, next.number
	var err error
	if next.ca, err = ca.New(parts); err != nil {
		return err
	}
	l.current.Store(next)
	l.number.Set(float64(next.number))
	hash, _ := strconv.ParseUint(next.digest[:12], 16, 64) // as many bits as a float64 holds exactly
	l.hash.Set(float64(hash))
	select {
	case l.swapped <- struct{}{}:
	default:
	}
	if next.number > 1 {
		l.app.audit.Event(&audit.Record{Kind: audit.KindReload, ConfigGeneration: next.number, Files: map[string]string{"issuers": next.digest}})
	}
	l.app.logger.LogAttrs(ctx, slog.LevelInfo, "issuers loaded",
		slog.Uint64("config_generation", next.number), slog.String("file", t.issuers.File.Name()),
		slog.String("sha256", next.digest), slog.Int("entries", len(t.issuers.Entries)))
	return nil
}

// Run keeps the keys of the current generation's issuers fresh, and those of the previous ones for
// as long as requests may need them. It returns when ctx has ended.
func (l *live) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	var running *generation
	stop := func() {}
	for {
		if g := l.current.Load(); g != running {
			time.AfterFunc(linger, stop)
			var own context.Context
			own, stop = context.WithCancel(ctx)
			running = g
			all.Go(func() { _ = g.verifier.Run(own) }) // returns nil
		}
		select {
		case <-l.swapped:
		case <-ctx.Done():
			stop()
			return
		}
	}
}

// Issue issues a certificate under the current generation. With a wrong clock, the times of tokens say
// nothing, and a refusal for them would be false. A request that finds out whether the logs still disagree gets a
// certificate only if they do not.
func (l *live) Issue(ctx context.Context, req ca.Request) (*ca.Issued, error) {
	probe, err := l.app.clock.Admit()
	if err != nil {
		return nil, clockWrong(err)
	}
	issued, err := l.current.Load().ca.Issue(ctx, req)
	if probe && err != nil {
		if reason := refusal.From(err).Reason; reason != refusal.ClockWrong && reason != refusal.CTUnavailable {
			l.app.clock.Unused()
		}
		return nil, clockWrong(err)
	}
	return issued, err
}

// TrustBundle is the trust bundle of the current generation.
func (l *live) TrustBundle() []*ca.Chain { return l.current.Load().ca.TrustBundle() }

// issuers is the content of GetConfiguration.
func (l *live) issuers() []server.IssuerInfo { return l.current.Load().infos }

// status is the state of the issuers of the current generation.
func (l *live) status() []oidc.IssuerStatus { return l.current.Load().verifier.Status() }

// Issuers is the state of each issuer entry in use.
func (a *App) Issuers() []oidc.IssuerStatus { return a.live.status() }

// check reports to readiness which generation serves. It fails while the current file does not load:
// certificates are not affected, but an operator's change is not in use.
func (l *live) check() server.Check {
	return reloadCheck("configuration", "docs/operations.md#a-change-is-not-in-force", l.watcher, func() string {
		g := l.current.Load()
		return fmt.Sprintf("generation %d, loaded at %s, sha256 %s", g.number, g.loaded.UTC().Format(time.RFC3339), g.digest)
	})
}

// issuerCheck reports each entry's state in public, and for the operator the entries with refused tokens
// or old keys. The failure of an issuer does not affect the tokens of others, so the server stays ready.
func (l *live) issuerCheck() server.Check {
	return server.Check{Name: "issuers", Runbook: "docs/discovery.md#an-issuer-fails", Probe: func(context.Context) (string, error) {
		var states []string
		var errs []error
		all := l.status()
		for _, entry := range mostUrgent(all) {
			states = append(states, entry.Entry+": "+describeIssuer(entry))
			switch {
			case entry.State == oidc.StatePending && entry.IssuerURL != "":
				errs = append(errs, fmt.Errorf("%s: no answer yet", entry.Entry))
			case entry.LastError != "":
				errs = append(errs, fmt.Errorf("%s: %s", entry.Entry, entry.LastError))
			}
		}
		slices.Sort(states)
		if left := len(all) - len(states); left > 0 {
			states = append(states, fmt.Sprintf("%d other entries are less urgent", left))
		}
		return strings.Join(states, "; "), errors.Join(errs...)
	}}
}

// describeIssuer returns the state of an entry, without the text of its errors.
func describeIssuer(entry oidc.IssuerStatus) string {
	switch {
	case entry.State == oidc.StateDisabled:
		return "disabled by the operator"
	case entry.IssuerURL == "":
		return string(entry.State) + ", " + count(entry.Issuers, "issuer", "issuers") + " in use"
	case entry.LastSuccess.IsZero():
		return string(entry.State) + ", no keys yet"
	case !entry.Usable && entry.Keys == 0:
		return string(entry.State) + ", no key in its key set"
	case !entry.Usable:
		return fmt.Sprintf("%s, keys too old at %s", entry.State, entry.KeyAge.Round(time.Second))
	default:
		return fmt.Sprintf("%s, keys %s old", entry.State, entry.KeyAge.Round(time.Second))
	}
}

// watch watches a group of files while the server runs.
func (a *App) watch(config watch.Config) *watch.Watcher {
	config.Logger, config.Interval, config.Registry = a.logger, a.options.interval, a.registry
	w := watch.New(config)
	a.tasks = append(a.tasks, w.Run)
	return w
}

// reloadCheck reports the content in use, and fails while a newer one is on disk.
func reloadCheck(name, runbook string, w *watch.Watcher, inUse func() string) server.Check {
	return server.Check{Name: name, Runbook: runbook, Probe: func(context.Context) (string, error) {
		if err := w.Failure(); err != nil {
			return inUse() + " is in use; what is on disk could not be loaded completely", err
		}
		return inUse(), nil
	}}
}
