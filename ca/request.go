// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"net/netip"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/proof"
)

// Proof is a proof of possession of the private key to certify.
//
// Verify checks the key against policy before it does any work on the proof itself, and returns the
// key. Its refusals are *refusal.Error of kind Malformed. It is called once, after the token has
// been verified, so that an unknown caller causes no such work.
type Proof interface {
	Verify(policy *proof.KeyPolicy, challenge proof.Challenge) (*proof.PublicKey, error)
}

// Request is what a signing client requests: a certificate for the key of Proof, in the name that
// IDToken gives.
type Request struct {
	// IDToken is the raw compact JWS as the client sent it; "" if it sent none.
	IDToken string
	// Proof is never nil.
	Proof Proof
	// Client is the address of the client, not that of a trusted proxy before it; zero if it is not
	// known.
	Client netip.Addr
	// RequestID is in every record of this request.
	RequestID string
	// Verified, if set, is called once IDToken has been verified. It is for metrics.
	Verified func()
}

func (r *Request) verified() {
	if r.Verified != nil {
		r.Verified()
	}
}

// Issued is a certificate that a client may have.
type Issued struct {
	// Certificate is the leaf, DER.
	Certificate []byte
	// Chain is the authority that signed it.
	Chain *Chain
	// SCTEmbedded reports whether Certificate holds a signed certificate timestamp. It is false
	// exactly if Certificate Transparency is disabled.
	SCTEmbedded bool
	// SerialNumber is the certificate's: 20 bytes, big-endian.
	SerialNumber []byte
	// SAN is the identity in the certificate.
	SAN certs.SAN
}
