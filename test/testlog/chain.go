// SPDX-License-Identifier: Apache-2.0

package testlog

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	ct "github.com/google/certificate-transparency-go"
	ctx509 "github.com/google/certificate-transparency-go/x509"
)

// maxChain bounds the certificates of a submission, the leaf included.
const maxChain = 8

// submission is a chain that the log accepts.
type submission struct {
	precert *ct.PreCert // nil for a certificate
	chain   [][]byte    // the leaf first, the root last
}

// check validates a chain by RFC 6962, section 3.1: each certificate certifies the one before
// it, and the last is a root or certified by one.
func (l *Log) check(entryType ct.LogEntryType, chain [][]byte) (submission, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return submission{}, fmt.Errorf("the chain has %d certificates; 1 to %d are accepted", len(chain), maxChain)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return submission{}, fmt.Errorf("parsing the chain's first certificate: %w", err)
	}
	issuers, err := l.issuers(chain[1:], leaf)
	if err != nil {
		return submission{}, err
	}
	if err := leaf.CheckSignatureFrom(issuers[0]); err != nil {
		return submission{}, fmt.Errorf("the chain's first certificate is not signed by the next: %w", err)
	}
	s := submission{chain: [][]byte{leaf.Raw}}
	for _, issuer := range issuers {
		s.chain = append(s.chain, issuer.Raw)
	}
	tbs, err := ctx509.BuildPrecertTBS(leaf.RawTBSCertificate, nil) // fails without a poison
	switch {
	case entryType == ct.X509LogEntryType && err == nil:
		return submission{}, errors.New("a precertificate belongs to add-pre-chain")
	case entryType == ct.X509LogEntryType:
		return s, nil
	case err != nil:
		return submission{}, fmt.Errorf("not a precertificate: %w", err)
	}
	s.precert = &ct.PreCert{IssuerKeyHash: sha256.Sum256(issuers[0].RawSubjectPublicKeyInfo), TBSCertificate: tbs}
	return s, nil
}

// issuers returns the verified chain above leaf, with the root at its end.
func (l *Log) issuers(ders [][]byte, leaf *x509.Certificate) ([]*x509.Certificate, error) {
	id := sha256.Sum256(bytes.Join(ders, nil))
	l.mu.RLock()
	known, roots := l.issuedBy[id], l.roots
	l.mu.RUnlock()
	if len(ders) > 0 && known != nil {
		return known, nil
	}
	var issuers []*x509.Certificate
	last := leaf
	for i, der := range ders {
		issuer, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("parsing the chain's certificate %d: %w", i+2, err)
		}
		if i > 0 {
			if err := last.CheckSignatureFrom(issuer); err != nil {
				return nil, fmt.Errorf("the chain's certificate %d is not signed by the next: %w", i+1, err)
			}
		}
		issuers, last = append(issuers, issuer), issuer
	}
	for _, root := range roots {
		if !root.Equal(last) {
			if !bytes.Equal(last.RawIssuer, root.RawSubject) || last.CheckSignatureFrom(root) != nil {
				continue
			}
			issuers = append(issuers, root)
		}
		if len(issuers) == 0 {
			return nil, errors.New("a root alone is not logged")
		}
		if len(ders) > 0 {
			l.mu.Lock()
			l.issuedBy[id] = issuers
			l.mu.Unlock()
		}
		return issuers, nil
	}
	return nil, errors.New("the chain does not end in a root that this log accepts")
}
