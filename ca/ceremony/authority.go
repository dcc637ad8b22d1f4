// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// Parent is a CA that certifies intermediates.
type Parent struct {
	// Chain is its certificate first, and those above it up to the root.
	Chain  []*x509.Certificate
	Signer crypto.Signer
}

// AuthorityConfig is a new authority for a CA set.
type AuthorityConfig struct {
	// Dir gets chain.pem, key.pem and pass. It must not exist, or be empty.
	Dir     string
	Subject Subject
	// Algorithm is of its key, one of Algorithms(); "" for DefaultAlgorithm.
	Algorithm string
	// Password encrypts the key; empty to have one drawn. It is written beside the key.
	Password []byte
	// Signer is a key that lies elsewhere; nil to have one made in Dir. It excludes Password.
	Signer *ExternalKey
	Parent Parent
	// NotBefore and NotAfter are as in IntermediateConfig.
	NotBefore, NotAfter time.Time
}

// AuthorityResult is what NewAuthority made. KeyFile and PasswordFile are "" where the key lies
// elsewhere.
type AuthorityResult struct {
	ChainFile, KeyFile, PasswordFile string
	Intermediate                     *x509.Certificate
}

// NewAuthority makes a key and an intermediate below Parent, in a folder of their own. If it
// fails, it leaves nothing behind.
func NewAuthority(cfg AuthorityConfig) (*AuthorityResult, error) {
	if cfg.Algorithm == "" {
		cfg.Algorithm = DefaultAlgorithm
	}
	if err := errors.Join(checkEmpty(cfg.Dir), cfg.Subject.check(), checkKeySource(cfg.Signer, cfg.Algorithm, "password", cfg.Password)); err != nil {
		return nil, err
	}
	key, err := newKey(cfg.Signer, cfg.Algorithm)
	if err != nil {
		return nil, err
	}
	intermediate, err := Intermediate(IntermediateConfig{
		Subject: cfg.Subject, PublicKey: key.Public(), Parent: cfg.Parent.Chain[0], ParentSigner: cfg.Parent.Signer,
		NotBefore: cfg.NotBefore, NotAfter: cfg.NotAfter,
	})
	if err != nil {
		return nil, err
	}
	files, _, err := keyFiles("", key, cfg.Signer, cfg.Dir, cfg.Password)
	if err != nil {
		return nil, err
	}
	chain := ChainPEM(append([]*x509.Certificate{intermediate}, cfg.Parent.Chain...))
	if err := writeAll(cfg.Dir, append(files, file{"", chainFile, publicMode, chain})); err != nil {
		return nil, fmt.Errorf("writing the authority to %s: %w", cfg.Dir, err)
	}
	in := func(name string) string { return filepath.Join(cfg.Dir, name) }
	result := &AuthorityResult{ChainFile: in(chainFile), Intermediate: intermediate}
	if cfg.Signer == nil {
		result.KeyFile, result.PasswordFile = in(keyFile), in(passwordFile)
	}
	return result, nil
}

// ChainPEM is certificates as a PEM file.
func ChainPEM(certificates []*x509.Certificate) (out []byte) {
	for _, c := range certificates {
		out = append(out, certificatePEM(c)...)
	}
	return out
}

// RequestConfig is a key for an intermediate whose parent is elsewhere.
type RequestConfig struct {
	// Dir gets request.csr, key.pem and pass. It must not exist, or be empty.
	Dir       string
	Subject   Subject
	Algorithm string
	Password  []byte
	// Signer is a key that lies elsewhere; nil to have one made in Dir. It excludes Password.
	Signer *ExternalKey
}

const requestFile = "request.csr"

// NewRequest makes a key and a certificate signing request for it, and returns the
// request's path. The request is signed where the root is (SignRequest), and what comes
// back is the authority's chain.
func NewRequest(cfg RequestConfig) (requestPath string, err error) {
	if cfg.Algorithm == "" {
		cfg.Algorithm = DefaultAlgorithm
	}
	if err := errors.Join(checkEmpty(cfg.Dir), cfg.Subject.check(), checkKeySource(cfg.Signer, cfg.Algorithm, "password", cfg.Password)); err != nil {
		return "", err
	}
	key, err := newKey(cfg.Signer, cfg.Algorithm)
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: cfg.Subject.CommonName, Organization: []string{cfg.Subject.Organization}},
	}, key)
	if err != nil {
		return "", fmt.Errorf("making the request: %w", err)
	}
	files, _, err := keyFiles("", key, cfg.Signer, cfg.Dir, cfg.Password)
	if err != nil {
		return "", err
	}
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	if err := writeAll(cfg.Dir, append(files, file{"", requestFile, publicMode, request})); err != nil {
		return "", fmt.Errorf("writing the request to %s: %w", cfg.Dir, err)
	}
	return filepath.Join(cfg.Dir, requestFile), nil
}

// SignRequestConfig is a certificate signing request of an intermediate.
type SignRequestConfig struct {
	// Request is PEM. Its key and its subject count, and nothing else in it.
	Request []byte
	// Subject replaces the request's where it is set.
	Subject             Subject
	Parent              Parent
	NotBefore, NotAfter time.Time
}

// SignRequest returns the chain of the intermediate that the request asks for, as PEM, and
// the intermediate.
func SignRequest(cfg SignRequestConfig) (chain []byte, intermediate *x509.Certificate, err error) {
	block, rest := pem.Decode(cfg.Request)
	if block == nil || (block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST") {
		return nil, nil, errors.New("the request is no PEM block CERTIFICATE REQUEST")
	}
	if second, _ := pem.Decode(rest); second != nil {
		return nil, nil, errors.New("the file holds more than one PEM block; it should hold one certificate signing request")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("parsing the request: %w", err)
	}
	// The signature proves that whoever asks holds the key.
	if err := request.CheckSignature(); err != nil {
		return nil, nil, fmt.Errorf("the request's own signature does not verify: %w", err)
	}
	subject := cfg.Subject
	if subject.CommonName == "" {
		subject.CommonName = request.Subject.CommonName
	}
	if subject.Organization == "" && len(request.Subject.Organization) == 1 {
		subject.Organization = request.Subject.Organization[0]
	}
	intermediate, err = Intermediate(IntermediateConfig{
		Subject: subject, PublicKey: request.PublicKey, Parent: cfg.Parent.Chain[0], ParentSigner: cfg.Parent.Signer,
		NotBefore: cfg.NotBefore, NotAfter: cfg.NotAfter,
	})
	if err != nil {
		return nil, nil, err
	}
	return ChainPEM(append([]*x509.Certificate{intermediate}, cfg.Parent.Chain...)), intermediate, nil
}
