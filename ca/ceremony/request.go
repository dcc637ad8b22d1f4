// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/internal/pem"
)

// RequestConfig describes a key for an intermediate with a parent elsewhere. The validity is the
// parent's to decide.
type RequestConfig struct {
	// Dir is the folder for request.csr, key.pem and pass. It must not exist, or be empty.
	Dir string
	PlannedCertificate
}

const requestFile = "request.csr"

// Check reports every mistake that can be found without opening or generating a key.
func (cfg RequestConfig) Check() error {
	return errors.Join(checkEmpty(cfg.Dir), cfg.check("password"))
}

// NewRequest creates a key and a certificate signing request for it, and returns the request's
// path. The root's operator signs the request (SignRequest), and the result is the authority's
// chain. If it fails, it leaves nothing behind except an ExternalKey that it generated, which
// the error names.
func NewRequest(cfg RequestConfig) (requestPath string, err error) {
	if err := cfg.Check(); err != nil {
		return "", err
	}
	return filepath.Join(cfg.Dir, requestFile), create(cfg.Dir, []*ExternalKey{cfg.Signer}, func() ([]file, error) {
		key, err := newKey(cfg.Signer, cfg.Algorithm)
		if err != nil {
			return nil, err
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: cfg.Subject.name()}, key)
		if err != nil {
			return nil, fmt.Errorf("making the request: %w", err)
		}
		files, _, err := keyFiles("", key, cfg.PlannedCertificate, cfg.Dir)
		return append(files, file{"", requestFile, publicMode, pem.Encode("CERTIFICATE REQUEST", der)}), err
	})
}

// SignRequestConfig is a certificate signing request of an intermediate.
type SignRequestConfig struct {
	// Request is PEM. Only its key and its subject are used.
	Request []byte
	// Subject replaces the request's where it is set.
	Subject             Subject
	Parent              Parent
	NotBefore, NotAfter time.Time
}

// SignRequest returns the chain of the intermediate that the request asks for, as PEM, and
// the intermediate.
func SignRequest(cfg SignRequestConfig) (chain []byte, intermediate *x509.Certificate, err error) {
	subject, public, err := parseRequest(cfg.Request, cfg.Subject)
	if err != nil {
		return nil, nil, err
	}
	intermediate, err = newIntermediate(PlannedCertificate{Subject: subject, NotBefore: cfg.NotBefore, NotAfter: cfg.NotAfter}, public, cfg.Parent.Chain[0], cfg.Parent.Signer)
	if err != nil {
		return nil, nil, err
	}
	return chainPEM(append([]*x509.Certificate{intermediate}, cfg.Parent.Chain...)...), intermediate, nil
}

// parseRequest returns the key of a request, whose signature proves that the requester holds it,
// and its subject, of which parts that are set in subject are replaced.
func parseRequest(content []byte, subject Subject) (Subject, crypto.PublicKey, error) {
	der, err := pem.One(content, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
	if err != nil {
		return subject, nil, fmt.Errorf("reading the request: %w", err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return subject, nil, fmt.Errorf("parsing the request: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return subject, nil, fmt.Errorf("the request's own signature does not verify: %w", err)
	}
	if subject.CommonName == "" {
		subject.CommonName = request.Subject.CommonName
	}
	if subject.Organization == "" && len(request.Subject.Organization) == 1 {
		subject.Organization = request.Subject.Organization[0]
	}
	return subject, request.PublicKey, nil
}
