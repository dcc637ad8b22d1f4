// SPDX-License-Identifier: Apache-2.0

// Package mayflytest is a keyless world in a test: an OpenID provider, a certificate
// authority that speaks the protocol of sigstore's Fulcio, a Certificate Transparency log, a
// timestamp authority, a Rekor v2 log and a TUF mirror. All are real, use one loopback port, and
// stop with the test. The package is for tests of clients:
//
//	world := mayflytest.New(t)
//	token := world.Token("alice@example.com")
//	trusted, err := root.NewTrustedRootFromJSON(world.TrustedRoot())
//
// A Config changes the world:
//
//	world := mayflytest.New(t, mayflytest.Config{CertificateLifetime: time.Minute, Fail: []string{"tsa"}})
//
// Each call of New starts another world, with keys of its own: one world refuses the tokens of another,
// and its trusted root does not verify the certificates of another.
//
// The first call of New in a process changes one thing outside of its world: klog (k8s.io/klog/v2) drops its
// lines from then on, since the library of the logs writes with it, and klog has one destination for the
// whole process. Call New before other goroutines write with klog. A test of a client that uses klog itself
// gets its lines back with klog.ClearLogger() after New, together with those of the library.
package mayflytest

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/dev"
)

// Config is what a world has in another way than usual. The zero value changes nothing.
type Config struct {
	// CertificateLifetime is the lifetime of certificates, from 1m to 60m; 0 for 10m.
	CertificateLifetime time.Duration
	// Issuers is an issuer file, YAML, as docs/issuers.md describes it. Its entries, with their rules
	// (allow), are added to the world's own. An entry for one of the world's issuers replaces the
	// world's. {url} in the text is the world's URL, as in {url}/dev/issuers/github.
	Issuers string
	// Fail names services that fail, each as in production: ct (the Certificate Transparency log),
	// authority (the process with the CA's key), issuer (the OpenID providers), tsa (the timestamp
	// authority), rekor.
	Fail []string
	// LogLevel is the least level of the log lines that the world writes to the test's output: debug,
	// info, warn or error; "" for none.
	LogLevel string
}

// World is a running world. It is safe for concurrent use.
type World struct {
	// URL is the certificate authority's URL, for REST and, on the same port, gRPC; it has no slash at
	// the end.
	URL string
	// IssuerURL is the URL of the issuer that the authority trusts, a complete OpenID provider with
	// the authorization-code flow.
	IssuerURL string
	// TimestampURL is the URL for RFC 3161 timestamp requests.
	TimestampURL string
	// RekorURL is the base URL of the Rekor v2 log.
	RekorURL string
	// TUFMirror is the URL of a TUF repository with the targets trusted_root.json and
	// signing_config.v0.2.json.
	TUFMirror string

	t     testing.TB
	world *dev.World
}

// New starts a world that stops with the test. Any error fails the test. There may be one config.
func New(t testing.TB, config ...Config) *World {
	t.Helper()
	if len(config) > 1 {
		t.Fatalf("starting mayfly: found %d configs; a world has one", len(config))
	}
	world, err := start(t, append(config, Config{})[0])
	if err != nil {
		t.Fatalf("starting mayfly: %v", err)
	}
	w := &World{
		URL: world.URL(), IssuerURL: world.IssuerURL(), TimestampURL: world.TimestampURL(),
		RekorURL: world.RekorURL(), TUFMirror: world.TUFMirror(), t: t, world: world,
	}
	// The test's own context ends before its cleanups, in which clients may still send requests.
	ctx, stop := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- world.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("stopping mayfly: %v", err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatalf("running mayfly: %v", err)
	case <-time.After(30 * time.Second): // usually it takes a tenth of a second
		t.Fatal("mayfly was not ready within 30 s")
	}
	return w
}

// start creates the world of a config.
func start(t testing.TB, config Config) (*dev.World, error) {
	quiet()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = listener.Close() }) // the world has closed it, if it has started
	cfg := dev.Config{
		Listener: listener, CertificateLifetime: config.CertificateLifetime, Fail: config.Fail, LogLevel: config.LogLevel, Version: "test",
	}
	if config.LogLevel != "" {
		cfg.LogOutput = t.Output()
	}
	if config.Issuers != "" {
		cfg.Issuers = filepath.Join(t.TempDir(), "Config.Issuers")
		text := strings.ReplaceAll(config.Issuers, "{url}", "http://"+listener.Addr().String())
		if err := os.WriteFile(cfg.Issuers, []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	return dev.New(t.Context(), cfg)
}

// quiet drops the lines of klog, with which Tessera, the library of both logs, writes to standard error.
var quiet = sync.OnceFunc(func() { embedded.RouteTesseraLogs(slog.New(slog.DiscardHandler)) })

// must returns a value without an error, and otherwise fails the test.
func must[T any](t testing.TB) func(value T, err error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("asking the world: %v", err)
		}
		return value
	}
}

// Token returns an ID token for the audience sigstore with the verified address email. It is valid
// for ten minutes.
func (w *World) Token(email string) string {
	w.t.Helper()
	return w.TokenWith(map[string]any{"email": email})
}

// TokenWith returns an ID token with these claims, which encoding/json encodes. It adds iss, aud,
// iat and exp if they are absent, and, where there is an email, sub and email_verified. A claim
// with the value nil stays absent.
func (w *World) TokenWith(claims map[string]any) string {
	w.t.Helper()
	return must[string](w.t)(w.world.Token(claims))
}

// TokenAs returns an ID token as the provider of a kind of identity sends it: github, gitlab,
// buildkite, circleci, codefresh, kubernetes, spiffe, uri, username or email. `mayfly token --help`
// lists the parameters of each, such as repo and ref of github. A parameter that is absent has its
// default.
func (w *World) TokenAs(kind string, parameters map[string]string) string {
	w.t.Helper()
	return w.TokenAsWith(kind, parameters, nil)
}

// TokenAsWith is TokenAs with other claims: claims replace those of the kind, and nil removes one.
func (w *World) TokenAsWith(kind string, parameters map[string]string, claims map[string]any) string {
	w.t.Helper()
	return must[string](w.t)(w.world.TokenAs(kind, parameters, claims))
}

// IssuerURLAs is the URL of the issuer of a kind of identity, which the certificates name.
func (w *World) IssuerURLAs(kind string) string {
	w.t.Helper()
	return must[string](w.t)(w.world.IssuerURLAs(kind))
}

// TrustedRoot is the world's trusted_root.json.
func (w *World) TrustedRoot() []byte { return must[[]byte](w.t)(w.world.TrustedRoot()) }

// SigningConfig is the world's signing_config.v0.2.json.
func (w *World) SigningConfig() []byte { return must[[]byte](w.t)(w.world.SigningConfig()) }

// TUFRoot is the root of trust with which clients of TUFMirror begin.
func (w *World) TUFRoot() []byte { return must[[]byte](w.t)(w.world.TUFRoot()) }
