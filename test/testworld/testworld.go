// SPDX-License-Identifier: Apache-2.0

// Package testworld is the environment of a CA for tests: an OpenID provider and a log on loopback,
// and the files of the CA as an operator would write them. Only tests import it.
package testworld

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/internal/pem"
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

	servers []*httptest.Server
}

// providerKey is the key of every world's provider: a new RSA key takes longer than the rest of a
// world.
var providerKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// New creates a world in dir, an empty directory, and starts its provider and its log. The caller
// closes it.
func New(dir string) (_ *World, err error) {
	w := &World{Dir: dir, ConfigFile: filepath.Join(dir, "mayfly.yaml")}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	result, err := ceremony.Init(ceremony.InitConfig{Dir: filepath.Join(dir, "ca"), Organization: "mayfly demo", Algorithm: "ecdsa-p256", Now: time.Now})
	if err != nil {
		return nil, err
	}
	w.Root = result.Root
	var issuer string
	if issuer, err = w.serve(func(url string) (h http.Handler, err error) {
		key, err := providerKey()
		if err != nil {
			return nil, err
		}
		w.Provider, err = provider.New(provider.Config{IssuerURL: url, Key: key})
		return w.Provider, err
	}); err != nil {
		return nil, err
	}
	if w.LogURL, err = w.serve(func(string) (h http.Handler, err error) {
		w.Log, err = testlog.New(testlog.Config{Roots: []*x509.Certificate{w.Root}})
		return w.Log, err
	}); err != nil {
		return nil, err
	}
	ca, err := filepath.Rel(dir, filepath.Dir(result.ChainFile))
	if err != nil {
		return nil, err
	}
	for name, content := range map[string]string{
		"log.pub": string(w.Log.PublicKeyPEM()),
		"issuers.yaml": fmt.Sprintf(`oidc-issuers:
  %[1]s:
    issuer-url: %[1]s
    client-id: sigstore
    type: email
`, issuer),
		"mayfly.yaml": fmt.Sprintf(`listen: {http: 127.0.0.1:0, grpc: localhost:0, ops: 127.0.0.1:0}
issuers: issuers.yaml
oidc: {allow_loopback: true}
ca:
  file: {chain: %[1]s/chain.pem, key: %[1]s/key.pem, password_file: %[1]s/pass}
ct:
  logs:
    - {url: "%[2]s", public_key: log.pub}
log: {format: text, level: error}
`, ca, w.LogURL),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// serve starts a server with the handler that create returns for the server's URL.
func (w *World) serve(create func(url string) (http.Handler, error)) (url string, err error) {
	s := httptest.NewUnstartedServer(nil)
	url = "http://" + s.Listener.Addr().String()
	if s.Config.Handler, err = create(url); err != nil {
		return "", errors.Join(err, s.Listener.Close())
	}
	s.Start()
	w.servers = append(w.servers, s)
	return url, nil
}

// Close stops the provider and the log.
func (w *World) Close() {
	for _, s := range w.servers {
		s.CloseClientConnections()
		s.Close()
	}
}

// Request gets a certificate for a new key in the name of person@example.com, and returns the
// chain, PEM, leaf first.
func (w *World) Request(ctx context.Context, ca *client.Client, csr bool) ([]string, error) {
	token, err := w.Provider.Mint(map[string]any{"aud": "sigstore", "sub": "person-1", "email": "person@example.com", "email_verified": true})
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	certificate, err := ca.SigningCertificate(ctx, client.Request{IDToken: token, Signer: key, CSR: csr})
	if err != nil {
		return nil, err
	}
	return certificate.PEM, nil
}

// Verify verifies a chain with the world's root and log.
func (w *World) Verify(chain []string) error {
	return VerifyChain([]byte(strings.Join(chain, "\n")), w.Root, w.Log.PublicKeyPEM())
}

// VerifyChain verifies a chain, PEM, as a client does: to the root for code signing, and the embedded
// timestamp with the log's key, by certificate-transparency-go.
func VerifyChain(chain []byte, root *x509.Certificate, logKey []byte) error {
	certificates, err := pem.Certificates(chain)
	if err != nil {
		return err
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	var ders [][]byte
	for _, c := range certificates {
		intermediates.AddCert(c)
		ders = append(ders, c.Raw)
	}
	if _, err := certificates[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}); err != nil {
		return err
	}
	return testlog.VerifySCT(logKey, ders)
}

// NewAuthority creates the authority id below the root of the CA in the folder dir, as `mayfly ca add`
// does, without adding it to the set. Its certificates begin at from.
func NewAuthority(dir, id string, from time.Time) (*ceremony.Result, error) {
	text, err := os.ReadFile(filepath.Join(dir, "root", "root.pem"))
	if err != nil {
		return nil, err
	}
	root, err := pem.Certificates(text)
	if err != nil {
		return nil, err
	}
	signer, _, err := file.Open(filepath.Join(dir, "root", "key.pem"), filepath.Join(dir, "root", "pass"))
	if err != nil {
		return nil, err
	}
	return ceremony.NewAuthority(ceremony.AuthorityConfig{
		Dir:                filepath.Join(dir, id),
		PlannedCertificate: ceremony.PlannedCertificate{Subject: ceremony.Subject{CommonName: id + " intermediate", Organization: "mayfly demo"}, Algorithm: "ecdsa-p256", NotBefore: from},
		Parent:             ceremony.Parent{Chain: root, Signer: signer},
	})
}
