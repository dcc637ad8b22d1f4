// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Authority is a CA certificate and its signer. It is immutable, and safe for concurrent use.
type Authority struct {
	id        string
	chain     *Chain
	signer    *signer.Signer
	algorithm certs.SignatureAlgorithm
	// issuerKeyHash is the SHA-256 of the issuing CA's SubjectPublicKeyInfo. An SCT over a
	// precertificate signs it (RFC 6962, section 3.2).
	issuerKeyHash [sha256.Size]byte
}

// NewAuthority returns the authority id, which signs with s in the name of the first certificate of
// chain. It does not sign; Prove signs, and finds a key that cannot.
func NewAuthority(id string, chain *Chain, s *signer.Signer) (*Authority, error) {
	issuing := chain.Certificates[0]
	public, ok := s.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(issuing.PublicKey) {
		return nil, fmt.Errorf("the key is not the key of the chain's first certificate (%s); give the key that belongs to it, and the issuing CA first in the chain", issuing.Subject)
	}
	return &Authority{
		id:            id,
		chain:         chain,
		signer:        s,
		algorithm:     s.Algorithm(),
		issuerKeyHash: sha256.Sum256(issuing.RawSubjectPublicKeyInfo),
	}, nil
}

// ID returns the authority's name in its set.
func (a *Authority) ID() string { return a.id }

// Chain returns the authority's certificates.
func (a *Authority) Chain() *Chain { return a.chain }

// Signer returns the signer of the authority's key.
func (a *Authority) Signer() *signer.Signer { return a.signer }

// Prove signs a message that can never be a certificate, and verifies the signature.
func (a *Authority) Prove(ctx context.Context) error {
	if err := a.signer.Prove(ctx); err != nil {
		return fmt.Errorf("signing with the key of authority %q: %w", a.id, err)
	}
	return nil
}

// sign returns the verified signature over a TBS.
func (a *Authority) sign(ctx context.Context, tbs []byte) ([]byte, error) {
	signature, err := a.signer.SignVerified(ctx, tbs)
	return signature, a.refusal(ctx, err)
}

// signForLog returns the signature over the TBS of a precertificate, only for a log that verifies
// it. For some keys it is not verified yet (see signer.Signer.Sign).
func (a *Authority) signForLog(ctx context.Context, tbs []byte) ([]byte, error) {
	signature, err := a.signer.Sign(ctx, tbs)
	return signature, a.refusal(ctx, err)
}

// refusal returns the client's error for a signer's failure, without information about the key. If
// the request has ended meanwhile and the signer reports no failure, the error is not a refusal.
func (a *Authority) refusal(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	because := fmt.Errorf("signing with authority %q: %w", a.id, err)
	var f *signer.Failure
	failed := errors.As(err, &f)
	if ctx.Err() != nil && !failed {
		return because
	}
	e := refusal.New(refusal.SignerUnavailable, "the certificate authority's signing key cannot be used right now; try again")
	if failed {
		e.RetryAfter = f.RetryAfter
	}
	return e.Because(because)
}
