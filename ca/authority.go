// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Authority is a CA certificate and its signer. It is immutable, and safe for concurrent
// use if its signer is.
type Authority struct {
	id        string
	chain     *Chain
	signer    crypto.Signer
	algorithm certs.SignatureAlgorithm
	// issuerKeyHash is the SHA-256 of the issuing CA's SubjectPublicKeyInfo, as an SCT over
	// a precertificate signs it (RFC 6962, section 3.2).
	issuerKeyHash [sha256.Size]byte
}

// NewAuthority returns the authority id, which signs with signer in the name of the first
// certificate of chain. It makes and verifies a real signature, so that a key of another
// certificate, or a signer that does not sign, is found here.
func NewAuthority(id string, chain *Chain, signer crypto.Signer) (*Authority, error) {
	issuing := chain.Certificates[0]
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(issuing.PublicKey) {
		return nil, fmt.Errorf("the key is not the key of the chain's first certificate (%s); give the key that belongs to it, and the issuing CA first in the chain", issuing.Subject)
	}
	algorithm, err := certs.SignatureAlgorithmFor(issuing.PublicKey)
	if err != nil {
		return nil, err
	}
	a := &Authority{
		id:            id,
		chain:         chain,
		signer:        signer,
		algorithm:     algorithm,
		issuerKeyHash: sha256.Sum256(issuing.RawSubjectPublicKeyInfo),
	}
	if err := a.SelfTest(); err != nil {
		return nil, err
	}
	return a, nil
}

// ID is the authority's name in its set.
func (a *Authority) ID() string { return a.id }

// Chain returns the authority's certificates.
func (a *Authority) Chain() *Chain { return a.chain }

// SelfTest makes a signature over what can never be a certificate, and verifies it.
func (a *Authority) SelfTest() error {
	message := []byte("mayfly signer self-test")
	signature, err := a.algorithm.Sign(rand.Reader, a.signer, message)
	if err != nil {
		return fmt.Errorf("signing with the key of authority %q: %w", a.id, err)
	}
	if err := a.algorithm.Verify(a.chain.Certificates[0].PublicKey, message, signature); err != nil {
		return fmt.Errorf("verifying a signature of authority %q: %w", a.id, err)
	}
	return nil
}

// ValidAt tells why the authority's chain is not valid at now; nil if it is.
func (a *Authority) ValidAt(now time.Time) error { return a.chain.ValidAt(now) }

// sign returns the certificate of tbs, DER. The caller verifies the signature, or sends
// the certificate to a log, which does.
func (a *Authority) sign(tbs []byte) (signature []byte, err error) {
	signature, err = a.algorithm.Sign(rand.Reader, a.signer, tbs)
	if err != nil {
		return nil, signerRefusal(fmt.Errorf("signing with authority %q: %w", a.id, err))
	}
	return signature, nil
}

// verify refuses a signature of our own that does not verify: a signer that computes
// wrongly, by fault or by attack, would else give away its key (an RSA-CRT fault does) or
// a certificate that nobody can use.
func (a *Authority) verify(tbs, signature []byte) error {
	if err := a.algorithm.Verify(a.chain.Certificates[0].PublicKey, tbs, signature); err != nil {
		return signerRefusal(fmt.Errorf("verifying what authority %q signed: %w", a.id, err))
	}
	return nil
}

// signerRefusal is what a client learns of a signer's failure: nothing of the key.
func signerRefusal(err error) error {
	return refusal.New(refusal.SignerUnavailable, "the certificate authority's signing key cannot be used right now; try again").Because(err)
}
