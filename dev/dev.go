// SPDX-License-Identifier: Apache-2.0

// Package dev is a complete keyless world in one process, for development: an OpenID provider
// with a sign-in page that accepts any name, a CA with an embedded Certificate Transparency log, a
// timestamp authority, a Rekor v2 log, and a TUF mirror that publishes all of them to clients. The
// CA is the one of `mayfly serve`. It serves the additions of this package below /dev/.
//
// Package main uses it for `mayfly dev`, package mayflytest for tests. No production server may use
// it.
package dev

import (
	"cmp"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/dev/rekor"
	"github.com/mayfly-ca/mayfly/dev/tsa"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/httputil"
	"github.com/mayfly-ca/mayfly/internal/suggest"
	"github.com/mayfly-ca/mayfly/internal/trustroot"
	"github.com/mayfly-ca/mayfly/internal/watch"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/server"
)

// DefaultListen is the address on which a world listens by default.
const DefaultListen = "127.0.0.1:5555"

// The paths of the world's services, below its URL.
const (
	homePath      = "/dev/" // the landing page
	providerPath  = "/dev/oidc"
	tokenPath     = "/dev/token"
	timestampPath = "/dev/tsa/api/v1/timestamp"
	rekorPath     = "/dev/rekor"
	tufPath       = "/dev/tuf"
	failingPath   = "/dev/fail/" // of a log that always fails
)

// Config is a world.
type Config struct {
	// Dir keeps the world between runs; "" for a temporary directory that is removed at the end.
	Dir string
	// Listen is a loopback address with a port, 0 for a free one; "" for DefaultListen. With Expose it
	// may be any address.
	Listen string
	// Expose is the name or IP address, without a port, by which other machines reach the world; "" for
	// this machine alone. It is the host in all URLs, and must lead this process to itself. Any client
	// that reaches the world can have any identity.
	Expose string
	// Listener is a listener that is open already, instead of Listen; the world closes it. nil for none.
	Listener net.Listener
	// CertificateLifetime is the lifetime of certificates, from 1m to 60m; 0 for 10m.
	CertificateLifetime time.Duration
	// LogOutput receives the server's log at LogLevel (debug, info, warn, error; "" for error) until
	// Run or Close returns; nil for none.
	LogOutput io.Writer
	LogLevel  string
	// Issuers is an issuer file, whose entries the world has beside its own ones. An entry for one of the
	// world's issuers replaces the world's own entry. "" for none.
	Issuers string
	// Note receives sentences for the user: which files of Dir were kept, what is wrong with Issuers. While
	// the world runs, another goroutine calls it. nil for none.
	Note func(error)
	// Fail names services that fail: see Failures.
	Fail []string
	// Version is the program's version.
	Version string
}

// World is a world that listens, and answers once it runs.
type World struct {
	url      string
	host     string // of url
	dir      string
	config   Config
	listener net.Listener
	kinds    Kinds
	client   *http.Client // for requests to this world
	app      *app.App
	handler  http.Handler                  // of what is below /dev/
	issuers  map[string]*provider.Provider // by kind
	tsa      *tsa.Authority
	rekor    *rekor.Log

	chain          string          // the path of the CA's chain, relative to dir
	authority, log json.RawMessage // the entries of tsa and rekor in the trusted root

	keys        errgroup.Group // makes providerKey
	providerKey *rsa.PrivateKey

	output  gate                          // for the server's log
	watcher *watch.Watcher                // of Config.Issuers; nil without
	undo    []func(context.Context) error // Close calls them, the last first
}

// New creates a world, or reuses the one in Config.Dir, and listens. The caller must call Run or
// Close afterwards.
func New(ctx context.Context, cfg Config) (*World, error) {
	if cfg.Listener != nil {
		cfg.Listen = cfg.Listener.Addr().String()
	}
	cfg.Listen, cfg.LogLevel = cmp.Or(cfg.Listen, DefaultListen), cmp.Or(cfg.LogLevel, "error")
	cfg.CertificateLifetime = cmp.Or(cfg.CertificateLifetime, 10*time.Minute)
	if cfg.Note == nil {
		cfg.Note = func(error) {}
	}
	w := &World{config: cfg, kinds: NewKinds()}
	// The directory comes before the port: its mistakes are the more important ones.
	for _, step := range []func(context.Context) error{
		w.checkConfig, w.findHost, w.claim, w.listen, w.makeKey, w.makeCA, w.makeLog, w.openRekor, w.makeTSA,
		w.writeSettings, w.writeIssuers, w.build, w.publish, w.makeProviders,
	} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, w.Close(ctx))
		}
	}
	return w, nil
}

// claim locks the world's directory, so that no other process uses it.
func (w *World) claim(context.Context) error {
	if w.config.Dir != "" {
		dir, lock, err := openDir(w.config.Dir, w.host)
		if err == nil {
			w.dir, w.undo = dir, append(w.undo, func(context.Context) error { return lock.Close() })
		}
		return err
	}
	dir, err := os.MkdirTemp("", "mayfly-dev-") // it is new, and this process owns it
	if err != nil {
		return fmt.Errorf("making a temporary directory: %w", err)
	}
	w.dir, w.undo = dir, append(w.undo, func(context.Context) error { return os.RemoveAll(dir) })
	return writeMarker(dir, w.host)
}

// ConfigError is why no world can have a Config.
type ConfigError struct{ error }

// checkConfig refuses a config that no world can have.
func (w *World) checkConfig(context.Context) error {
	c, levels := &w.config, []string{"debug", "info", "warn", "error"}
	host, port, err := net.SplitHostPort(c.Listen)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	w.host = cmp.Or(strings.ToLower(c.Expose), host)
	ip, notIP := netip.ParseAddr(w.host)
	isName := strings.Trim(w.host, "abcdefghijklmnopqrstuvwxyz0123456789.-") == "" && strings.TrimLeft(w.host, ".-") == w.host
	unknown := slices.IndexFunc(c.Fail, func(name string) bool { return !slices.Contains(Failures(), name) })
	switch {
	case unknown >= 0:
		name := c.Fail[unknown]
		err = fmt.Errorf("%q is no service that can fail on request%s", name, suggest.DidYouMeanOr(name, Failures(), "these can:"))
	case !slices.Contains(levels, c.LogLevel):
		err = fmt.Errorf("the log level is %q%s", c.LogLevel, suggest.DidYouMeanOr(c.LogLevel, levels, "the levels are"))
	case c.CertificateLifetime < time.Minute || c.CertificateLifetime > time.Hour:
		err = fmt.Errorf("the lifetime of certificates is %s; 1m to 60m is expected", c.CertificateLifetime)
	case err != nil:
		err = fmt.Errorf("the address to listen on is %q; a host and a port are expected, such as %s", c.Listen, DefaultListen)
	case c.Expose == "" && !httputil.IsLoopback(host):
		err = fmt.Errorf("the address to listen on is %q; any client that reaches a development world can have any identity in it: "+
			"use a loopback address with a port, such as %s, or name with --expose the host by which other machines reach this one",
			c.Listen, DefaultListen)
	case c.Expose != "" && (ip.IsUnspecified() || ip.Zone() != "" || notIP != nil && !isName):
		err = fmt.Errorf("the host to expose is %q; the name or IP address of one machine is expected, "+
			"without a scheme, port or path, such as mayfly.internal", c.Expose)
	}
	if err != nil {
		return ConfigError{err}
	}
	if c.Expose != "" && httputil.IsLoopback(host) {
		c.Note(fmt.Errorf("other machines reach this world only through a forwarder, since it listens on %s: --listen 0.0.0.0:%s is every address", c.Listen, port))
	}
	return nil
}

// findHost refuses an exposed host that leads nowhere.
func (w *World) findHost(ctx context.Context) error {
	if w.config.Expose == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := net.DefaultResolver.LookupHost(ctx, w.host); err != nil {
		return fmt.Errorf("the host to expose: %w; the CA itself reads the issuer's keys at that name: make it lead to this "+
			"machine, with an entry in /etc/hosts, extra_hosts (compose) or hostAliases (Kubernetes)", err)
	}
	return nil
}

// Warning states that other machines reach the world; "" if they cannot.
func (w *World) Warning() string {
	if w.config.Expose == "" {
		return ""
	}
	return "This development world is exposed to other machines: any client that reaches " + w.url +
		" can sign as any person in it. Trust nothing that it signed, and stop it after use."
}

// listen opens the world's port.
func (w *World) listen(context.Context) (err error) {
	if w.listener = w.config.Listener; w.listener == nil {
		w.listener, err = net.Listen("tcp", w.config.Listen)
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("%w; if another mayfly dev runs there, stop it or use it, "+
			"else choose another port with --listen, or 127.0.0.1:0 for a free one", err)
	}
	if err != nil {
		return err
	}
	// Its own requests do not depend on names or proxies.
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, w.listener.Addr().String())
	}}
	w.client = &http.Client{Timeout: time.Second, Transport: transport}
	w.undo = append(w.undo, func(context.Context) error {
		transport.CloseIdleConnections()
		_ = w.listener.Close() // after Run, it is closed already
		return nil
	})
	_, port, err := net.SplitHostPort(w.listener.Addr().String()) // the port that was free, for 0
	w.url = "http://" + net.JoinHostPort(w.host, port)
	return err
}

// gate passes text on to a writer, if there is one.
type gate struct {
	mu sync.Mutex
	to io.Writer
}

func (g *gate) shut(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.to = nil
	return nil
}

// Write implements io.Writer.
func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.to == nil {
		return len(p), nil
	}
	return g.to.Write(p)
}

// build creates the CA's server from the directory. A request for an issuer's keys, which may outlive the
// server, writes no line after Close.
func (w *World) build(ctx context.Context) (err error) {
	w.output.to, w.undo = w.config.LogOutput, append(w.undo, w.output.shut)
	w.app, err = app.Build(ctx, app.Options{
		ConfigFile: w.path(settingsFile), LogOutput: &w.output, Version: w.config.Version, Mounts: w.mounts(),
	})
	if err == nil {
		w.undo = append(w.undo, w.app.Close)
	}
	return err
}

// publish writes what clients must know into the TUF mirror.
func (w *World) publish(context.Context) error {
	key, errKey := loadOrMakeKey(w.path("tuf.key"), newKey)
	trustedRoot, errRoot := w.TrustedRoot()
	signingConfig, errConfig := w.SigningConfig()
	if err := errors.Join(errKey, errRoot, errConfig); err != nil {
		return err
	}
	return writeTUF(w.path(tufFolder), key, map[string][]byte{
		trustroot.TrustedRootName: trustedRoot, trustroot.SigningConfigName: signingConfig,
	}, time.Now())
}

// Run serves until ctx ends, and then stops everything. It calls ready once the world answers.
func (w *World) Run(ctx context.Context, ready func()) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var tasks sync.WaitGroup
	path := "/readyz"
	if w.fails("authority") { // such a world is never ready, and answers
		path = "/livez"
	}
	tasks.Go(func() {
		for ctx.Err() == nil && w.State(w.url+path) != stateAnswers {
			time.Sleep(5 * time.Millisecond)
		}
		if ctx.Err() == nil {
			ready()
		}
	})
	if w.watcher != nil {
		tasks.Go(func() { w.watcher.Run(ctx) })
	}
	err := w.app.Run(ctx, server.Listeners{HTTP: w.listener})
	stop()
	tasks.Wait()
	return errors.Join(err, w.Close(ctx))
}

// Close closes a world that does not run. It can be called again.
func (w *World) Close(ctx context.Context) error {
	// The logs publish their last entries.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	_ = w.keys.Wait() // makeProviders has returned its error
	var errs []error
	for i := len(w.undo) - 1; i >= 0; i-- {
		errs = append(errs, w.undo[i](ctx))
	}
	w.undo = nil
	return errors.Join(errs...)
}

// URL is the world's URL, without a slash at the end: REST and gRPC of the CA.
func (w *World) URL() string { return w.url }

// IssuerURL is the URL of the issuer that the CA trusts.
func (w *World) IssuerURL() string { return w.url + providerPath }

// TimestampURL is the URL for timestamp requests.
func (w *World) TimestampURL() string { return w.url + timestampPath }

// RekorURL is the base URL of the Rekor v2 log.
func (w *World) RekorURL() string { return w.url + rekorPath }

// TUFMirror is the URL of the TUF repository; its root of trust is root.json there.
func (w *World) TUFMirror() string { return w.url + tufPath }

// TUFRoot is the first root of trust of the TUF repository.
func (w *World) TUFRoot() ([]byte, error) {
	return files.Read(filepath.Join(w.path(tufFolder), "root.json"), maxFile)
}

// TrustedRoot is trusted_root.json.
func (w *World) TrustedRoot() ([]byte, error) { return w.app.Instance().TrustedRoot() }

// SigningConfig is signing_config.v0.2.json.
func (w *World) SigningConfig() ([]byte, error) { return w.app.Instance().SigningConfig() }

// Token returns an ID token with claims. It adds the other claims of a person's token if they are
// absent.
func (w *World) Token(claims map[string]any) (string, error) {
	return w.issuers["email"].Mint(complete(claims))
}
