// SPDX-License-Identifier: Apache-2.0

// Package mayflytest is a keyless world in a test: an OpenID provider, a certificate
// authority that speaks the protocol of sigstore's Fulcio, a Certificate Transparency log, a
// timestamp authority, a Rekor v2 log and a TUF mirror. All are real, use one loopback port, and
// stop with the test. The package is for tests of clients:
//
//	world := mayflytest.New(t)
//	token := world.Token("alice@example.com")
//	trusted, err := root.NewTrustedRootFromJSON(world.TrustedRoot())
package mayflytest

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/dev"
)

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

	t             testing.TB
	world         *dev.World
	trustedRoot   []byte
	signingConfig []byte
	tufRoot       []byte
}

// startLimit is how long a world may take to be ready; usually it takes a fraction of a second.
const startLimit = 30 * time.Second

// New starts a world that stops with the test. Any error fails the test.
func New(t testing.TB) *World {
	t.Helper()
	world, err := dev.New(t.Context(), dev.Config{Listen: "127.0.0.1:0", LogOutput: t.Output(), Version: "test"})
	if err != nil {
		t.Fatalf("starting mayfly: %v", err)
	}
	w := &World{
		URL: world.URL(), IssuerURL: world.IssuerURL(), TimestampURL: world.TimestampURL(),
		RekorURL: world.RekorURL(), TUFMirror: world.TUFMirror(), t: t, world: world,
	}
	var errs [3]error
	w.trustedRoot, errs[0] = world.TrustedRoot()
	w.signingConfig, errs[1] = world.SigningConfig()
	w.tufRoot, errs[2] = world.TUFRoot()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatalf("starting mayfly: %v", errors.Join(err, world.Close(t.Context())))
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
	case <-time.After(startLimit):
		t.Fatalf("mayfly was not ready within %s", startLimit)
	}
	return w
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
	token, err := w.world.Token(claims)
	if err != nil {
		w.t.Fatalf("minting a token: %v", err)
	}
	return token
}

// TrustedRoot is the world's trusted_root.json.
func (w *World) TrustedRoot() []byte { return bytes.Clone(w.trustedRoot) }

// SigningConfig is the world's signing_config.v0.2.json.
func (w *World) SigningConfig() []byte { return bytes.Clone(w.signingConfig) }

// TUFRoot is the root of trust with which clients of TUFMirror begin.
func (w *World) TUFRoot() []byte { return bytes.Clone(w.tufRoot) }
