// SPDX-License-Identifier: Apache-2.0

// Package demo shows the main function on one machine: an OpenID provider, a log and a CA on
// loopback, with files as an operator would write them. `mayfly demo` and the tests of the
// commands use it; packages that serve must not.
package demo

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// World is the running environment of a CA, and the files that configure a CA for it.
type World struct {
	// Dir holds ca/ (from `mayfly ca init`), log.pub, issuers.yaml and mayfly.yaml.
	Dir string
	// ConfigFile is Dir's mayfly.yaml, with listeners on free ports.
	ConfigFile string
	// Provider signs ID tokens; its issuer URL is trusted with type email.
	Provider *provider.Provider
	// Log is the Certificate Transparency log.
	Log *testlog.Log
	// LogURL is its URL.
	LogURL string
	// Root is the CA's trust anchor.
	Root *x509.Certificate

	servers []*http.Server
}

// NewWorld creates a world in dir, an empty directory, and starts its provider and its log.
// The caller closes it.
func NewWorld(dir string) (_ *World, err error) {
	w := &World{Dir: dir, ConfigFile: filepath.Join(dir, "mayfly.yaml")}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	result, err := ceremony.Init(ceremony.InitConfig{Dir: filepath.Join(dir, "ca"), Organization: "mayfly demo", Algorithm: "ecdsa-p256", Now: time.Now})
	if err != nil {
		return nil, err
	}
	w.Root = result.Root

	providerListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if w.Provider, err = provider.New(provider.Config{IssuerURL: "http://" + providerListener.Addr().String()}); err != nil {
		return nil, errors.Join(err, providerListener.Close())
	}
	w.serve(providerListener, w.Provider)

	if w.Log, err = testlog.New(testlog.Config{Roots: []*x509.Certificate{w.Root}}); err != nil {
		return nil, err
	}
	logListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w.LogURL = "http://" + logListener.Addr().String()
	w.serve(logListener, w.Log)

	for name, content := range map[string]string{
		"log.pub": string(w.Log.PublicKeyPEM()),
		"issuers.yaml": fmt.Sprintf(`oidc-issuers:
  %[1]s:
    issuer-url: %[1]s
    client-id: sigstore
    type: email
`, w.Provider.IssuerURL()),
		"mayfly.yaml": fmt.Sprintf(`listen: {http: 127.0.0.1:0, grpc: localhost:0, ops: 127.0.0.1:0}
issuers: issuers.yaml
oidc: {allow_loopback: true}
ca:
  file: {chain: %s, key: %s, password_file: %s}
ct:
  logs:
    - {url: "%s", public_key: log.pub}
log: {format: text, level: error}
`, rel(dir, result.ChainFile), rel(dir, result.KeyFile), rel(dir, result.PasswordFile), w.LogURL),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// rel returns name as a path that begins in dir.
func rel(dir, name string) string {
	if relative, err := filepath.Rel(dir, name); err == nil {
		return relative
	}
	return name
}

func (w *World) serve(l net.Listener, h http.Handler) {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	w.servers = append(w.servers, s)
	go func() { _ = s.Serve(l) }() // ends with Close
}

// Close stops the provider and the log.
func (w *World) Close() error {
	var errs []error
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, s := range w.servers {
		errs = append(errs, s.Shutdown(ctx))
	}
	return errors.Join(errs...)
}

// parsePEM parses the chain of an answer of the CA.
func parsePEM(blocks []string) ([]*x509.Certificate, error) {
	var certificates []*x509.Certificate
	for _, text := range blocks {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return nil, errors.New("the CA's answer holds something that is no PEM")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parsing the CA's answer: %w", err)
		}
		certificates = append(certificates, c)
	}
	return certificates, nil
}
