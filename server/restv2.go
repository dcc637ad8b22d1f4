// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/proof"
)

// createV2 issues a certificate. The gateway answers a request that decodeV2 does not decode.
func (s *Server) createV2(ctx context.Context, q *request) ([]byte, error) {
	token, p, ok := decodeV2(q.body)
	if !ok {
		return s.callGateway(ctx, q)
	}
	issued, err := s.issue(ctx, q, token, p)
	if err != nil {
		return nil, err
	}
	return s.answerV2(issued), nil
}

// requestV2 is the body of POST /api/v2/signingCert in the form that signing clients send: camelCase
// names, strings, and bytes as padded standard base64.
type requestV2 struct {
	Credentials struct {
		IDToken string `json:"oidcIdentityToken"`
	} `json:"credentials"`
	PublicKeyRequest *struct {
		PublicKey struct {
			Algorithm string `json:"algorithm"` // ignored; the key determines it
			Content   string `json:"content"`
		} `json:"publicKey"`
		ProofOfPossession []byte `json:"proofOfPossession"`
	} `json:"publicKeyRequest"`
	CertificateSigningRequest []byte `json:"certificateSigningRequest"`
}

// decodeV2 returns the ID token and the proof of possession in a body, if it is a requestV2 with no
// other name and no name twice. For any other body ok is false; protojson, through the gateway,
// decodes or refuses it.
func decodeV2(body []byte) (token string, p ca.Proof, ok bool) {
	var req *requestV2
	if err := json.Unmarshal(body, &req, json.RejectUnknownMembers(true)); err != nil || req == nil {
		return "", nil, false
	}
	key, csr := req.PublicKeyRequest, req.CertificateSigningRequest
	switch {
	case key != nil && csr != nil: // both members of a oneof
		return "", nil, false
	case key != nil:
		p = proof.SignedChallenge{PublicKey: []byte(key.PublicKey.Content), Signature: key.ProofOfPossession}
	case csr != nil:
		p = proof.CSR{PEM: csr}
	default:
		p = noProof{}
	}
	return req.Credentials.IDToken, p, true
}

// answerV2 returns the answer with a certificate, as protojson renders SigningCertificate. Without an
// SCT it has the detached form.
func (s *Server) answerV2(issued *ca.Issued) []byte {
	begin, end := `{"signedCertificateEmbeddedSct":{"chain":{"certificates":["`, `"]}}}`
	if !issued.SCTEmbedded {
		begin, end = `{"signedCertificateDetachedSct":{"chain":{"certificates":["`, `"]},"signedCertificateTimestamp":""}}`
	}
	above := s.above(issued.Chain)
	body := append(make([]byte, 0, 256+3*len(issued.Certificate)/2+len(above)), begin...)
	body = appendPEM(body, issued.Certificate, `\n`)
	return append(append(body, above...), end...)
}

// appendPEM appends a certificate as one PEM block without a newline at its end. A newline in it is
// written as newline.
func appendPEM(dst, der []byte, newline string) []byte {
	dst = append(dst, "-----BEGIN CERTIFICATE-----"...)
	for line := range slices.Chunk(der, 48) { // 64 characters (RFC 7468, section 2)
		dst = base64.StdEncoding.AppendEncode(append(dst, newline...), line)
	}
	return append(append(dst, newline...), "-----END CERTIFICATE-----"...)
}

// chainJSON is the certificates of a chain, as JSON after a leaf.
type chainJSON struct {
	chain *ca.Chain
	json  string
}

// above returns the certificates of chain as JSON after a leaf. They are rendered again only when
// another authority signs.
func (s *Server) above(chain *ca.Chain) string {
	last := s.signing.Load()
	if last == nil || last.chain != chain {
		last = &chainJSON{chain, strings.ReplaceAll(`","`+strings.Join(chain.PEM, `","`), "\n", `\n`)}
		s.signing.Store(last)
	}
	return last.json
}
