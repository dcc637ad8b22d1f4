// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/certificate-transparency-go/ctutil"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// Config configures one run of the demo.
type Config struct {
	// Out receives the output for people.
	Out io.Writer
	// Show prints the certificate, leaf first, at the end.
	Show func(chain []byte) error
	// Version is the program's.
	Version string
}

// Run shows the main function: it creates a world in a temporary directory, serves, gets a
// certificate over REST and one over gRPC through real sockets, and verifies both. It then
// shows that a forged token gets none.
func Run(ctx context.Context, config Config) (err error) {
	begin := time.Now()
	dir, err := os.MkdirTemp("", "mayfly-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	world, err := NewWorld(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, world.Close()) }()
	say := func(format string, args ...any) { fmt.Fprintf(config.Out, format+"\n", args...) }
	say("An OpenID provider at %s, a Certificate Transparency log at %s.", world.Provider.IssuerURL(), world.LogURL)

	restURL, grpcURL, stop, err := world.serveCA(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	say("The certificate authority serves REST at %s and gRPC at %s.", restURL, grpcURL)

	overREST, err := client.New(client.Config{URL: restURL})
	if err != nil {
		return err
	}
	overGRPC, err := client.New(client.Config{URL: grpcURL, GRPC: true})
	if err != nil {
		return err
	}
	if _, err := world.obtain(ctx, say, overREST, false, "over REST, by signed challenge"); err != nil {
		return err
	}
	chain, err := world.obtain(ctx, say, overGRPC, true, "over gRPC, by certificate signing request")
	if err != nil {
		return err
	}
	if err := world.refuseForger(ctx, say, overREST); err != nil {
		return err
	}
	if err := config.Show([]byte(strings.Join(chain, "\n"))); err != nil {
		return err
	}
	say("\nDone in %s.", time.Since(begin).Round(time.Millisecond))
	return nil
}

// serveCA serves the world's CA as `mayfly serve` does. The caller calls stop.
func (w *World) serveCA(ctx context.Context, config Config) (restURL, grpcURL string, stop func() error, err error) {
	built, err := app.Build(ctx, app.Options{ConfigFile: w.ConfigFile, LogOutput: config.Out, Version: config.Version})
	if err != nil {
		return "", "", nil, err
	}
	listeners, err := built.Listen()
	if err != nil {
		return "", "", nil, err
	}
	serving, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- built.Run(serving, listeners) }()
	stop = func() error { cancel(); return <-done }
	return "http://" + listeners.HTTP.Addr().String(), "http://" + listeners.GRPC.Addr().String(), stop, nil
}

// obtain gets a certificate, verifies it and reports how long that took.
func (w *World) obtain(ctx context.Context, say func(string, ...any), ca *client.Client, csr bool, way string) ([]string, error) {
	asked := time.Now()
	chain, err := w.Request(ctx, ca, csr)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", way, err)
	}
	took := time.Since(asked)
	if err := w.Verify(chain); err != nil {
		return nil, fmt.Errorf("verifying the certificate got %s: %w", way, err)
	}
	say("A certificate %s: %s, verified to the root with the log's timestamp.", way, took.Round(time.Millisecond/10))
	return chain, nil
}

// refuseForger sends a token in the provider's name that another key has signed.
func (w *World) refuseForger(ctx context.Context, say func(string, ...any), ca *client.Client) error {
	forger, err := provider.New(provider.Config{IssuerURL: w.Provider.IssuerURL()})
	if err != nil {
		return err
	}
	token, err := forger.Mint(person())
	if err != nil {
		return err
	}
	_, err = request(ctx, ca, false, token)
	if refused := (*client.Error)(nil); !errors.As(err, &refused) {
		return fmt.Errorf("a forged token was not refused: %v", err)
	}
	say("A forged token: %v.\n", err)
	return nil
}

// Request gets a certificate for a new key in the name of person@example.com, and returns the
// chain, PEM, leaf first.
func (w *World) Request(ctx context.Context, ca *client.Client, csr bool) ([]string, error) {
	token, err := w.Provider.Mint(person())
	if err != nil {
		return nil, err
	}
	return request(ctx, ca, csr, token)
}

func person() map[string]any {
	return map[string]any{"aud": "sigstore", "sub": "person-1", "email": "person@example.com", "email_verified": true}
}

func request(ctx context.Context, ca *client.Client, csr bool, token string) ([]string, error) {
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

// Verify verifies a chain as a client does: to the root for code signing, and the embedded
// timestamp with the log's key, by certificate-transparency-go.
func (w *World) Verify(blocks []string) error {
	certificates, err := parsePEM(blocks)
	if err != nil {
		return err
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(w.Root)
	for _, c := range certificates[1:] {
		intermediates.AddCert(c)
	}
	if _, err := certificates[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}); err != nil {
		return err
	}
	var chain []*ctx509.Certificate
	for _, c := range certificates {
		parsed, err := ctx509.ParseCertificate(c.Raw)
		if ctx509.IsFatal(err) {
			return err
		}
		chain = append(chain, parsed)
	}
	scts, err := x509util.ParseSCTsFromSCTList(&chain[0].SCTList)
	if err != nil {
		return err
	}
	if len(scts) != 1 {
		return fmt.Errorf("the certificate has %d signed certificate timestamps instead of one", len(scts))
	}
	block, _ := pem.Decode(w.Log.PublicKeyPEM())
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return err
	}
	return ctutil.VerifySCT(key, chain, scts[0], true)
}
