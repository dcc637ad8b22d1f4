// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"
	jsonv1 "github.com/go-json-experiment/json/v1"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/proof"
)

// pemChain is the media type of v1's answers (RFC 8555, section 9.1).
const pemChain = "application/pem-certificate-chain"

// requestV1 is the body of POST /api/v1/signingCert. Names match exactly, unknown names are
// ignored, and bytes are standard base64.
type requestV1 struct {
	PublicKey struct {
		// Content is PEM or DER. The algorithm next to it is ignored; the key determines it.
		Content []byte `json:"content"`
	} `json:"publicKey"`
	// SignedEmailAddress is the proof of possession; the name is older than other challenges.
	SignedEmailAddress []byte `json:"signedEmailAddress"`
	// CertificateSigningRequest is PEM. If it is not empty, the other fields are ignored.
	CertificateSigningRequest []byte `json:"certificateSigningRequest"`
}

// proof returns the proof of possession in the request.
func (r *requestV1) proof() ca.Proof {
	switch {
	case len(r.CertificateSigningRequest) > 0:
		return proof.CSR{PEM: r.CertificateSigningRequest}
	case len(r.PublicKey.Content) > 0:
		return proof.SignedChallenge{PublicKey: r.PublicKey.Content, Signature: r.SignedEmailAddress}
	default:
		return noProof{}
	}
}

// decodeV1 decodes a request. It refuses duplicate names and trailing data.
func decodeV1(body []byte) (*requestV1, error) {
	var req requestV1
	// Clients of v1 could always send base64 with line breaks, as base64(1) writes it.
	if err := json.Unmarshal(body, &req, jsonv1.ParseBytesWithLooseRFC4648(true)); err != nil {
		// The parser's text may quote the body, so it is dropped.
		return nil, refusal.New(refusal.RequestMalformed, "the request body is not what API v1 takes: one JSON object with publicKey.content and signedEmailAddress, or with certificateSigningRequest, each given once and in standard base64")
	}
	return &req, nil
}

// serveSigningCertV1 answers POST /api/v1/signingCert: 201, the leaf first and the root last. There
// is no SCT header, since an SCT is either embedded or absent.
func (s *Server) serveSigningCertV1(ctx context.Context, a *answer, q *request) error {
	req, err := decodeV1(q.body)
	if err != nil {
		return err
	}
	issued, err := s.issue(ctx, q, "", req.proof())
	if err != nil {
		return err
	}
	write(a, http.StatusCreated, pemChain, []byte(strings.Join(chainPEM(issued), "\n")))
	return nil
}

// serveRootCertV1 answers GET /api/v1/rootCert: every chain of the trust bundle.
func (s *Server) serveRootCertV1(_ context.Context, a *answer, _ *request) error {
	write(a, http.StatusOK, pemChain, s.trustBundle().pem)
	return nil
}
