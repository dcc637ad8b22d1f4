// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

// requestOptions are the flags of `mayfly request`.
type requestOptions struct {
	url, keyFile, certificateFile, keyType, challenge, caFile string
	grpc, csr                                                 bool
	out                                                       output
	token                                                     tokenFlags
}

func requestCommand() *cobra.Command {
	var o requestOptions
	c := &cobra.Command{
		Use:   "request",
		Short: "Get a certificate: token in, key and certificate out",
		RunE:  func(c *cobra.Command, _ []string) error { return o.run(c) },
	}
	require(c, "url", "key")
	f := c.Flags()
	f.StringVar(&o.url, "url", "", "the CA, as in https://ca.example (required)")
	f.BoolVar(&o.grpc, "grpc", false, "ask over gRPC instead of REST")
	f.BoolVar(&o.csr, "csr", false, "prove possession by a certificate signing request instead of a signed challenge")
	o.token.add(c)
	addOutput(c, &o.out)
	f.StringVar(&o.keyType, "key-type", "ecdsa-p256", "kind of key to make: "+strings.Join(keyTypes, ", "))
	f.StringVar(&o.keyFile, "key", "", "file for the new private key, PKCS#8 PEM, which must not exist (required)")
	f.StringVar(&o.certificateFile, "certificate", "-", "file for the certificate chain, leaf first; - is standard output")
	f.StringVar(&o.challenge, "challenge", "", "what to sign, where it is neither the claim email nor sub")
	f.StringVar(&o.caFile, "tls-ca", "", "PEM file of the certificates that may certify the CA's own TLS certificate; default: the system's")
	return c
}

func (o *requestOptions) run(c *cobra.Command) error {
	// Checked first: otherwise a certificate would be logged and then lost because a file cannot be
	// written.
	if _, err := os.Lstat(o.keyFile); err == nil {
		return fmt.Errorf("%s exists, and a key is never overwritten: name another file with --key", o.keyFile)
	}
	if filepath.Clean(o.keyFile) == filepath.Clean(o.certificateFile) {
		return usageError{fmt.Errorf("--key and --certificate are both %q; name two files", o.keyFile)}
	}
	if _, err := os.Stat(filepath.Dir(o.certificateFile)); err != nil {
		return fmt.Errorf("--certificate: %w", err)
	}
	if info, err := os.Stat(o.certificateFile); err == nil && info.IsDir() {
		return fmt.Errorf("--certificate: %s: %w", o.certificateFile, syscall.EISDIR)
	}
	token, err := o.token.read(c)
	if err == nil && token == "" {
		err = usageError{errors.New("there is no ID token: give --token-file, or set " + tokenVariable)}
	}
	if err != nil {
		return err
	}
	config := client.Config{URL: o.url, GRPC: o.grpc}
	if o.caFile != "" {
		data, err := readInput(c.InOrStdin(), o.caFile)
		if err != nil {
			return err
		}
		config.RootCAs = x509.NewCertPool()
		if err := pem.CertPool(config.RootCAs, data); err != nil {
			return fmt.Errorf("%s: %w", o.caFile, err)
		}
	}
	ca, err := client.New(config)
	if err != nil {
		return usageError{err}
	}
	key, err := newKey(o.keyType)
	if err != nil {
		return usageError{err}
	}
	if err := writeKey(o.keyFile, key); err != nil {
		return err
	}
	chain, err := requestCertificate(c.Context(), ca, client.Request{IDToken: token, Signer: key, CSR: o.csr, Challenge: o.challenge})
	if err != nil {
		return errors.Join(unheard(err, o.url), os.Remove(o.keyFile))
	}
	return o.write(c, chain)
}

// write writes the chain to its file, and to standard output, if that is the file or with -o json. It writes
// the certificates without the text that was around them, since the file may be shown on a terminal.
func (o *requestOptions) write(c *cobra.Command, chain []*x509.Certificate) error {
	var blocks []string
	for _, certificate := range chain {
		blocks = append(blocks, strings.TrimSpace(string(pem.Encode("CERTIFICATE", certificate.Raw))))
	}
	text := strings.Join(blocks, "\n") + "\n"
	if o.certificateFile != "-" {
		if err := os.WriteFile(o.certificateFile, []byte(text), 0o644); err != nil {
			return err
		}
		text = ""
	}
	if !o.out.json() {
		_, err := fmt.Fprint(c.OutOrStdout(), text)
		return err
	}
	leaf, err := inspect(chain[0])
	if err != nil {
		return err
	}
	return printJSON(c.OutOrStdout(), map[string]any{"key": o.keyFile, "chain": blocks, "certificate": leaf})
}

// requestCertificate requests a certificate, and refuses an answer with a leaf for another key.
func requestCertificate(ctx context.Context, ca *client.Client, req client.Request) ([]*x509.Certificate, error) {
	certificate, err := ca.SigningCertificate(ctx, req)
	if err != nil {
		return nil, err
	}
	chain, err := pem.Certificates([]byte(strings.Join(certificate.PEM, "\n")))
	if err != nil {
		return nil, fmt.Errorf("reading the CA's answer: %w", err)
	}
	public, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(req.Signer.Public()) {
		return nil, errors.New("the CA's certificate is for another key than ours")
	}
	return chain, nil
}

var keyTypes = []string{"ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519"}

func newKey(kind string) (crypto.Signer, error) {
	curves := map[string]elliptic.Curve{"ecdsa-p256": elliptic.P256(), "ecdsa-p384": elliptic.P384(), "ecdsa-p521": elliptic.P521()}
	sizes := map[string]int{"rsa-2048": 2048, "rsa-3072": 3072, "rsa-4096": 4096}
	switch {
	case curves[kind] != nil:
		return ecdsa.GenerateKey(curves[kind], rand.Reader)
	case sizes[kind] != 0:
		return rsa.GenerateKey(rand.Reader, sizes[kind])
	case kind == "ed25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	default:
		return nil, fmt.Errorf("the key type %q is not one of %s", kind, strings.Join(keyTypes, ", "))
	}
}

// writeKey writes a private key to a new file that only its owner can read. It never overwrites a
// key.
func writeKey(name string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding the private key: %w", err)
	}
	if err := files.Create(name, pem.Encode("PRIVATE KEY", der), 0o600); err != nil {
		return fmt.Errorf("writing the private key: %w", err)
	}
	return nil
}
