// SPDX-License-Identifier: Apache-2.0

// Package app builds the run-time objects from the configuration, in the order of a request:
// issuers, identities, keys, CA signers, logs, and the listeners. It and cmd are the only importers
// of package config; serve, dev and tests all use it.
package app

import (
	"cmp"
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/clock"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/ratelimit"
	"github.com/mayfly-ca/mayfly/internal/trustroot"
	"github.com/mayfly-ca/mayfly/proof"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/server/trace"
)

// Options are the inputs of a server.
type Options struct {
	// ConfigFile is the server's configuration file.
	ConfigFile string
	// Environ is the environment, as os.Environ gives it.
	Environ []string
	// LogOutput receives the log; nil for none.
	LogOutput io.Writer
	// LibraryLog receives the logger for Tessera, whose own is one for the whole process; nil keeps that.
	LibraryLog func(*slog.Logger)
	// Version is the version in the metric mayfly_build_info.
	Version string
	// Mounts are also served on the HTTP listener.
	Mounts []server.Mount
	// Modules are the PKCS#11 modules of a process in which more than one server runs; nil for the
	// server's own.
	Modules *keyring.Modules
	// Hurry, when it is closed, stops shutdown.grace at once; nil for none.
	Hurry <-chan struct{}
	// Supervisor is the service manager; its sockets have the names http, grpc and ops.
	Supervisor Supervisor
	// Audited is called once an audit log is open; nil for nothing.
	Audited func()
	// Now is the clock for authorities' state changes and the begin of certificates; nil for time.Now.
	Now func() time.Time

	// Steady, if set, is a clock that is never set, against which the steps of Now are found. Without it
	// those of the machine's clock are.
	Steady func() time.Duration

	// report is the report of a check; nil for a start. See build.
	report *CheckReport
	// interval is how often changed files are looked for; 0 for watch.Interval.
	interval time.Duration
}

func (o Options) now() func() time.Time {
	if o.Now == nil {
		return time.Now
	}
	return o.Now
}

// warner returns the receiver of warnings: the report of a check, or logger.
func (o Options) warner(logger *slog.Logger) func(...error) {
	if o.report != nil {
		return o.report.warn
	}
	return func(warnings ...error) { logError(logger, slog.LevelWarn, errors.Join(warnings...)) }
}

// App is a server that has been built and does not run yet.
type App struct {
	// Config is the configuration that it was built from.
	Config *config.Server

	options     Options
	logger      *slog.Logger   // for lines that only the operator causes
	callers     *slog.Logger   // for lines that callers can cause
	warn        func(...error) // receives warnings for the operator
	registry    *prometheus.Registry
	live        *live
	authorities *caSet
	clock       *clock.Clock
	logs        *ctlog.Logs // nil where Certificate Transparency is disabled
	embedded    []*embedded.Log
	audit       *audit.Log // nil without `audit`
	server      *server.Server
	tlsCheck    []server.Check          // of the listeners' certificate; empty without TLS
	tracer      *trace.Tracer           // nil without traces
	tasks       []func(context.Context) // run in the background until the edge has stopped
	// restartPending states that the configuration file differs from the configuration in use.
	restartPending atomic.Bool
	// instance is the part of trusted_root.json and signing_config.v0.2.json that never changes.
	instance trustroot.Instance
}

// shutdownTimeout is how long the background tasks may take to stop after the edge has stopped.
const shutdownTimeout = 15 * time.Second

// Serve builds a server, listens, and serves until ctx ends. An end of ctx during the start is no
// error. Serve logs its error, and returns it as Logged, unless the configuration could not be read
// far enough to know the log's format.
func Serve(ctx context.Context, options Options) error {
	app, err := build(ctx, options)
	if app == nil {
		return err
	}
	var listeners server.Listeners
	if err == nil {
		listeners, err = app.Listen()
	}
	switch {
	case err == nil:
		err = app.Run(ctx, listeners)
	case ctx.Err() != nil: // a signal stopped the start; no file has a mistake
		err = app.Close(ctx)
	default:
		err = errors.Join(err, app.Close(ctx))
	}
	if err == nil || options.LogOutput == nil {
		return err
	}
	logError(app.logger, slog.LevelError, err)
	return Logged{err}
}

// Build reads the configuration and creates all its objects. It opens no listener and sends no
// request over the network. Every mistake in a file is returned with its place.
func Build(ctx context.Context, options Options) (*App, error) {
	app, err := build(ctx, options)
	if err != nil {
		if app != nil {
			err = errors.Join(err, app.Close(ctx))
		}
		return nil, err
	}
	return app, nil
}

// build is Build, and returns the App beside an error if the format of its log is known. A start stops at the first part with a
// mistake. A check builds all parts, opens nothing for writing and requests no signature, and its
// report has the warnings. So a check refuses what a start refuses.
func build(ctx context.Context, options Options) (*App, error) {
	cfg, warnings, err := config.LoadServer(options.ConfigFile, options.Environ)
	if err != nil {
		if options.report != nil {
			options.report.warn(warnings...)
		}
		if options.report != nil || cfg == nil {
			return nil, err
		}
	}
	app := &App{Config: cfg, options: options, registry: newRegistry(options.Version)}
	app.logger, app.callers = newLoggers(cfg.Log, options.LogOutput)
	if options.LibraryLog != nil && options.report == nil {
		options.LibraryLog(newLibraryLogger(app.callers))
	}
	app.warn = options.warner(app.logger)
	app.warn(warnings...)
	if err != nil {
		return app, err
	}
	app.clock = app.newClock(ctx)
	app.watchConfig(ctx)
	keyPolicy, profile, err := checkSettings(cfg)
	rateLimits, errLimits := ratelimit.New(cfg.RateLimits, app.registry, app.callers)
	edge := server.Config{
		RateLimits: rateLimits, ProxyProtocol: cfg.Listen.ProxyProtocol,
		TrustedProxies: cfg.TrustedProxies, Grace: cfg.Shutdown.Grace, Hurry: options.Hurry, DrainTimeout: cfg.Shutdown.Drain,
		Ops: cfg.Ops, Registry: app.registry, Logger: app.callers,
	}
	errs := []error{cfg.WithPlaces(errors.Join(err, keypath.Prefix(errLimits, "rate_limits")))}
	for _, part := range []func() error{
		func() error { return app.trust(ctx) },
		func() (err error) {
			app.authorities, err = newCASet(ctx, cfg, options, app.logger, app.callers, app.registry)
			return err
		},
		func() error { return cfg.WithPlaces(app.openLogs(ctx)) },
		func() error { return cfg.WithPlaces(app.openAudit(ctx)) },
		func() (err error) { edge.TLS, err = app.tlsConfig(); return cfg.WithPlaces(err) },
		func() (err error) { edge.Limits, err = limits(cfg); return cfg.WithPlaces(err) },
		func() (err error) { edge.Tracer, err = app.openTracer(ctx); return cfg.WithPlaces(err) },
	} {
		if options.report != nil || errors.Join(errs...) == nil {
			errs = append(errs, part())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return app, err
	}
	return app, app.assemble(ctx, edge, ca.Config{KeyPolicy: keyPolicy, Profile: profile})
}

// assemble creates the authority and the edge from parts without mistakes.
func (a *App) assemble(ctx context.Context, edge server.Config, base ca.Config) (err error) {
	// The record of a certificate is complete, whatever its length: its caller is verified.
	base.Active, base.TrustBundle, base.Now = a.active, a.authorities.TrustBundle, a.authorities.now
	base.Logs, base.Logger, base.Audit, base.SetGeneration = a.logs, a.logger, a.audit, a.authorities.generation
	a.live.base = base
	if err := a.live.use(ctx, a.live.first); err != nil {
		return fmt.Errorf("%s: %w", a.Config.Name(), err)
	}
	if a.options.report == nil {
		a.live.first = nil
	}
	a.recordStart()
	a.tasks = append(a.tasks, a.live.Run, a.authorities.run)
	a.registry.MustRegister(ctMetrics(a.Config, a.authorities.now), issuerMetrics(a.live.status), a.clockMetrics())
	edge.Issue, edge.TrustBundle, edge.Refused = a.live.Issue, a.live.TrustBundle, a.audit.Refused
	edge.Issuers, edge.Mounts, edge.State = a.live.issuers, a.mounts(), a.state
	edge.Page = a.page()
	// A key that does not sign, or a CA that expires soon, makes the server unready.
	edge.Checks = append(append(a.authorities.checks(base.Profile.Lifetime()), a.live.issuerCheck(), a.live.check(), a.clockCheck()), append(a.logChecks(), append(a.auditCheck(), a.tlsCheck...)...)...)
	if a.server, err = server.New(edge); err != nil {
		return a.Config.WithPlaces(err)
	}
	return a.Config.WithPlaces(a.checkDocuments())
}

// checkSettings creates the objects that the configuration alone decides. Its errors have key
// paths.
func checkSettings(cfg *config.Server) (*proof.KeyPolicy, *ca.Profile, error) {
	keyPolicy, errPolicy := proof.NewKeyPolicy(cfg.Keys.Algorithms...)
	profile, errProfile := ca.NewProfile(cfg.Certificate.Lifetime)
	errs := []error{keypath.Prefix(errPolicy, "keys"), keypath.Prefix(errProfile, "certificate", "lifetime")}
	for i, entry := range cfg.CT.Logs {
		path := []string{"ct", "logs", strconv.Itoa(i)}
		if entry.Embedded != nil {
			errs = append(errs, keypath.Prefix(embedded.CheckSettings(*entry.Embedded), append(path, "embedded")...))
		} else {
			_, _, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: entry.URL})
			errs = append(errs, keypath.Prefix(err, path...))
		}
		errs = append(errs, keypath.Prefix(ctlog.Window{Begin: entry.ActivateAt, End: entry.RetireAt}.Check(), path...))
	}
	return keyPolicy, profile, errors.Join(errs...)
}

// Close closes an App that does not run. Run calls it by itself. The App is unusable afterwards.
func (a *App) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	var errs []error
	for _, log := range a.embedded { // each stops in an order that loses no entry
		errs = append(errs, log.Shutdown(ctx))
	}
	if a.authorities != nil {
		errs = append(errs, a.authorities.ring.Close())
	}
	if a.audit != nil {
		errs = append(errs, a.audit.Close(ctx))
	}
	errs = append(errs, a.tracer.Shutdown(ctx)) // it may wait for its collector
	return errors.Join(errs...)
}

// Listen opens the listeners that the configuration names, except those that the service manager has
// opened.
func (a *App) Listen() (l server.Listeners, err error) {
	passed, err := a.options.Supervisor.listeners("http", "grpc", "ops")
	if err != nil {
		return server.Listeners{}, err
	}
	addresses := a.Config.Listen
	if addresses.GRPC == addresses.HTTP {
		addresses.GRPC = ""
	}
	for _, open := range []struct {
		key, address string
		listener     *net.Listener
	}{{"http", addresses.HTTP, &l.HTTP}, {"grpc", addresses.GRPC, &l.GRPC}, {"ops", addresses.Ops, &l.Ops}} {
		if *open.listener, err = a.listen(open.key, open.address, passed[open.key]); err != nil {
			for _, listener := range []net.Listener{l.HTTP, l.GRPC, l.Ops} {
				if listener != nil {
					err = errors.Join(err, listener.Close())
				}
			}
			return server.Listeners{}, err
		}
	}
	return l, nil
}

// listen returns the listener of listen.KEY: the one that the service manager passed, if it did; nil for no address.
func (a *App) listen(key, address string, passed net.Listener) (net.Listener, error) {
	switch {
	case passed == nil && address == "":
		return nil, nil
	case passed == nil:
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("listening on listen.%s: %w; expected a free port on an address of this machine", key, err)
		}
		return l, nil
	case address == "" || !listensOn(passed, address):
		return passed, a.Config.WithPlaces(keypath.Errorf([]string{"listen", key},
			"found %s, and the socket %s of the service manager listens on %s; expected one address here and in ListenStream= of its unit, and for REST and gRPC on one port only the socket http",
			cmp.Or(address, a.Config.Listen.GRPC), key, passed.Addr()))
	}
	return passed, nil
}

// Run serves on listeners until ctx ends or something fails, and returns when everything that it
// started has stopped.
func (a *App) Run(ctx context.Context, listeners server.Listeners) error {
	attrs := []slog.Attr{slog.String("http", listeners.HTTP.Addr().String())}
	for name, listener := range map[string]net.Listener{"grpc": listeners.GRPC, "ops": listeners.Ops} {
		if listener != nil {
			attrs = append(attrs, slog.String(name, listener.Addr().String()))
		}
	}
	if fips140.Enabled() {
		attrs = append(attrs, slog.String("fips140", fips140.Version()), slog.Bool("fips140_enforced", fips140.Enforced()))
	}
	a.logger.LogAttrs(ctx, slog.LevelInfo, "serving", attrs...)
	life := supervised{
		logger: a.logger, alive: answers(listeners.Ops), status: func(ctx context.Context) string { return describe(a.server.State(ctx)) },
		shutdown: a.Config.Shutdown.Grace + a.Config.Shutdown.Drain + shutdownTimeout,
	}
	serve := func(ctx context.Context) error { return a.server.Serve(ctx, listeners) }
	err := errors.Join(a.options.Supervisor.run(ctx, life, a.tasks, serve), a.Close(ctx))
	a.logger.LogAttrs(context.WithoutCancel(ctx), slog.LevelInfo, "stopped")
	return err
}

// run calls front until ctx ends, and tasks until front has returned: requests in flight still need
// keys and the newest TLS certificate while the edge drains.
func run(ctx context.Context, tasks []func(context.Context), front func(context.Context) error) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	for _, task := range tasks {
		all.Go(func() { task(background) })
	}
	return front(ctx)
}

// readFile reads a file that an operator named, up to a size limit.
func readFile(name string) ([]byte, error) {
	return files.Read(name, 1<<20)
}
