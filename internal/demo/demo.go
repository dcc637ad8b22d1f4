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
	"time"

	"github.com/google/certificate-transparency-go/ctutil"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"

	"github.com/mayfly-ca/mayfly/internal/app"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// Config is one run of the demo.
type Config struct {
	// Out gets what a person reads.
	Out io.Writer
	// Show prints the certificate, leaf first, at the end.
	Show func(chain []byte) error
	// Version is the program's.
	Version string
}

// Run shows the main job: it makes a world in a temporary directory, serves, gets a
// certificate over REST and one over gRPC through real sockets, verifies both, and shows
// that a token of somebody else gets none.
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

	running, err := app.Build(ctx, app.Options{ConfigFile: world.ConfigFile, LogOutput: config.Out, Version: config.Version})
	if err != nil {
		return err
	}
	listeners, err := running.Listen()
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- running.Run(serving, listeners) }()
	defer func() { stop(); err = errors.Join(err, <-done) }()
	restURL, grpcURL := "http://"+listeners.HTTP.Addr().String(), "http://"+listeners.GRPC.Addr().String()
	say("The certificate authority serves REST at %s and gRPC at %s.", restURL, grpcURL)

	var shown []string
	for _, way := range []struct {
		what   string
		config client.Config
		csr    bool
	}{
		{"over REST, by signed challenge", client.Config{URL: restURL}, false},
		{"over gRPC, by certificate signing request", client.Config{URL: grpcURL, GRPC: true}, true},
	} {
		asked := time.Now()
		chain, err := world.request(ctx, way.config, way.csr, "person@example.com")
		if err != nil {
			return fmt.Errorf("asking %s: %w", way.what, err)
		}
		took := time.Since(asked)
		if err := world.Verify(chain); err != nil {
			return fmt.Errorf("verifying the certificate got %s: %w", way.what, err)
		}
		say("A certificate %s: %s, verified to the root with the log's timestamp.", way.what, took.Round(time.Millisecond/10))
		shown = chain
	}

	stranger, err := world.tokenOfAStranger()
	if err != nil {
		return err
	}
	_, err = world.requestWith(ctx, client.Config{URL: restURL}, false, stranger)
	if refused := (*client.Error)(nil); !errors.As(err, &refused) {
		return fmt.Errorf("a forged token was not refused: %v", err)
	}
	say("A forged token: %v.\n", err)

	var pemChain []byte
	for _, block := range shown {
		pemChain = append(pemChain, block+"\n"...)
	}
	if err := config.Show(pemChain); err != nil {
		return err
	}
	say("\nDone in %s.", time.Since(begin).Round(time.Millisecond))
	return nil
}

// request gets a certificate for a new key in the name of email.
func (w *World) request(ctx context.Context, config client.Config, csr bool, email string) ([]string, error) {
	token, err := w.Provider.Mint(map[string]any{"aud": "sigstore", "sub": "person-1", "email": email, "email_verified": true})
	if err != nil {
		return nil, err
	}
	return w.requestWith(ctx, config, csr, token)
}

func (w *World) requestWith(ctx context.Context, config client.Config, csr bool, token string) ([]string, error) {
	ca, err := client.New(config)
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

// tokenOfAStranger is a token in the provider's name that another key has signed.
func (w *World) tokenOfAStranger() (string, error) {
	forger, err := provider.New(provider.Config{IssuerURL: w.Provider.IssuerURL()})
	if err != nil {
		return "", err
	}
	return forger.Mint(map[string]any{"aud": "sigstore", "sub": "person-1", "email": "person@example.com", "email_verified": true})
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
