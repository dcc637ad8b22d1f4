// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/watch"
	"github.com/mayfly-ca/mayfly/oidc"
	"github.com/mayfly-ca/mayfly/server"
)

// linger is how long the background of a replaced generation continues: requests that began under
// it may wait for its keys, and none takes as long as this.
const linger = 10 * time.Second

// generation decides one request, from its start to its end: the content of an issuer file at one
// time, and the CA that trusts it. It is immutable.
type generation struct {
	number uint64 // from 1, one more with each load
	loaded time.Time
	trust  *trust
	ca     *ca.CA
}

// live is the authority that the edge uses: at each moment, the newest generation that loaded.
type live struct {
	// load reads the issuer file again.
	load func() (*trust, []config.Mistake, error)
	// base is the CA without the parts of a generation: Verifier, Rules, Generation.
	base    ca.Config
	metrics *reloadMetrics
	logger  *slog.Logger
	warn    func(...error)
	first   *trust // what was read before base was set

	current atomic.Pointer[generation]
	// failed is why the current file is not in use; nil where it is.
	failed atomic.Pointer[failedReload]
	// swapped wakes Run; it has room for one.
	swapped chan struct{}
}

type failedReload struct {
	at  time.Time
	err error
}

// trust reads the issuer file, and starts to watch it: each change creates a new generation.
func (a *App) trust(ctx context.Context, registry prometheus.Registerer) error {
	observer := newTrustObserver(registry)
	a.live = &live{
		load: func() (*trust, []config.Mistake, error) {
			return loadTrust(a.Config, a.Config.Issuers, a.callers, observer)
		},
		metrics: newReloadMetrics(registry),
		logger:  a.logger,
		warn:    a.warn,
		swapped: make(chan struct{}, 1),
	}
	// The watcher takes the current content as known, so it comes before the first read.
	a.watchers = append(a.watchers, watch.New(watch.Config{
		Name:    "issuers",
		Files:   []string{a.Config.Issuers},
		Reload:  func() error { return a.live.reload(context.WithoutCancel(ctx)) },
		Observe: a.live.observe,
		Logger:  a.logger,
	}))
	var err error
	if a.live.first, err = a.live.read(); err != nil && !errors.As(err, new(config.Mistakes)) {
		return a.Config.Explain(keypath.Errorf([]string{"issuers"}, "%w", err))
	}
	return err
}

// begin puts the issuers of the first read into use, with base as the rest of the CA.
func (l *live) begin(ctx context.Context, base ca.Config) error {
	l.base = base
	return l.use(ctx, l.first)
}

// reload puts the current issuer file into use, completely or not at all. Calls of it never
// overlap.
func (l *live) reload(ctx context.Context) (err error) {
	// A panic in a parser of the file must not stop the server.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic while loading: %v", p)
		}
	}()
	t, err := l.read()
	if err != nil {
		return err
	}
	return l.use(ctx, t)
}

// read reads the issuer file, and passes its warnings to warn.
func (l *live) read() (*trust, error) {
	t, warnings, err := l.load()
	l.warn(asErrors(warnings)...)
	return t, err
}

// use puts t into use as the next generation.
func (l *live) use(ctx context.Context, t *trust) error {
	next := &generation{number: 1, loaded: l.base.Now(), trust: t}
	if last := l.current.Load(); last != nil {
		next.number = last.number + 1
		t.verifier.Inherit(last.trust.verifier)
	}
	parts := l.base
	parts.Verifier, parts.Rules, parts.Generation = t.verifier, t.rules, next.number
	var err error
	if next.ca, err = ca.New(parts); err != nil {
		return err
	}
	l.current.Store(next)
	l.metrics.generation.Set(float64(next.number))
	select {
	case l.swapped <- struct{}{}:
	default:
	}
	l.logger.LogAttrs(ctx, slog.LevelInfo, "issuers loaded",
		slog.Uint64("config_generation", next.number), slog.String("file", t.issuers.File.Name()),
		slog.String("sha256", t.issuers.File.Digest()), slog.Int("entries", len(t.issuers.Entries)))
	return nil
}

// observe records the result of each change of the file. An unreadable file, which is not reloaded,
// is also a result.
func (l *live) observe(err error) {
	now := float64(l.base.Now().Unix())
	if err != nil {
		l.failed.Store(&failedReload{l.base.Now(), err})
		l.metrics.reloads.WithLabelValues("error").Inc()
		l.metrics.lastFailure.Set(now)
		l.metrics.stale.Set(1)
		return
	}
	l.failed.Store(nil)
	l.metrics.reloads.WithLabelValues("ok").Inc()
	l.metrics.lastSuccess.Set(now)
	l.metrics.stale.Set(0)
}

// Run keeps the keys of the current generation's issuers fresh, and those of the previous ones for
// as long as requests may need them. It returns nil when ctx has ended.
func (l *live) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	var running *generation
	stop := func() {}
	for {
		if g := l.current.Load(); g != running {
			if replaced := stop; running != nil {
				all.Go(func() {
					defer replaced()
					select {
					case <-time.After(linger):
					case <-ctx.Done():
					}
				})
			}
			var own context.Context
			own, stop = context.WithCancel(ctx)
			running = g
			all.Go(func() { _ = g.trust.verifier.Run(own) }) // returns nil
		}
		select {
		case <-l.swapped:
		case <-ctx.Done():
			stop()
			return nil
		}
	}
}

// Issue implements server.Authority.
func (l *live) Issue(ctx context.Context, req ca.Request) (*ca.Issued, error) {
	return l.current.Load().ca.Issue(ctx, req)
}

// TrustBundle implements server.Authority.
func (l *live) TrustBundle() []*ca.Chain { return l.current.Load().ca.TrustBundle() }

// issuers is the content of GetConfiguration.
func (l *live) issuers() []server.IssuerInfo { return l.current.Load().trust.infos }

// status is the state of the issuers of the current generation.
func (l *live) status() []oidc.IssuerStatus { return l.current.Load().trust.verifier.Status() }

// probe reports to readiness which generation serves. It fails while the current file does not
// load: certificates are not affected, but an operator's change is not in use.
func (l *live) probe(context.Context) (detail string, err error) {
	g := l.current.Load()
	detail = fmt.Sprintf("generation %d, loaded at %s, sha256 %s", g.number, g.loaded.UTC().Format(time.RFC3339), g.trust.issuers.File.Digest())
	if failed := l.failed.Load(); failed != nil {
		return detail + "; the issuer file has changed since and could not be loaded", fmt.Errorf("reloading at %s: %w", failed.at.UTC().Format(time.RFC3339), failed.err)
	}
	return detail, nil
}
