// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/proof"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// service is the v2 API behind both gRPC and the gateway, and grpc.health.v1 with the same readiness
// as /healthz. Its errors are those of the authority. status.go converts them.
type service struct {
	fulciov2.UnimplementedCAServer
	healthpb.UnimplementedHealthServer
	*Server
}

// CreateSigningCertificate issues a certificate.
func (s service) CreateSigningCertificate(ctx context.Context, req *fulciov2.CreateSigningCertificateRequest) (*fulciov2.SigningCertificate, error) {
	issued, err := s.issue(ctx, requestOf(ctx), req.GetCredentials().GetOidcIdentityToken(), proofOf(req))
	if err != nil {
		return nil, err
	}
	chain := &fulciov2.CertificateChain{Certificates: chainPEM(issued)}
	if !issued.SCTEmbedded {
		return &fulciov2.SigningCertificate{Certificate: &fulciov2.SigningCertificate_SignedCertificateDetachedSct{
			SignedCertificateDetachedSct: &fulciov2.SigningCertificateDetachedSCT{Chain: chain},
		}}, nil
	}
	return &fulciov2.SigningCertificate{Certificate: &fulciov2.SigningCertificate_SignedCertificateEmbeddedSct{
		SignedCertificateEmbeddedSct: &fulciov2.SigningCertificateEmbeddedSCT{Chain: chain},
	}}, nil
}

// GetTrustBundle returns the chains to trust.
func (s service) GetTrustBundle(context.Context, *fulciov2.GetTrustBundleRequest) (*fulciov2.TrustBundle, error) {
	return s.trustBundle().message, nil
}

// trustBundle returns all forms of the current trust bundle. Chains are immutable and compared by
// address, so a bundle is rendered only when an authority is added, removed or moved.
func (s *Server) trustBundle() *bundle {
	chains := s.cfg.TrustBundle()
	b := s.bundle.Load()
	if b == nil || !slices.Equal(b.chains, chains) {
		b = newBundle(chains)
		s.bundle.Store(b)
	}
	return b
}

// bundle is a trust bundle in every form in which it is served. It is immutable.
type bundle struct {
	chains  []*ca.Chain
	message *fulciov2.TrustBundle // v2
	json    []byte                // v2, REST
	pem     []byte                // v1
}

func newBundle(chains []*ca.Chain) *bundle {
	message := &fulciov2.TrustBundle{}
	var all []string
	for _, chain := range chains {
		lines := make([]string, len(chain.PEM))
		for i, block := range chain.PEM {
			lines[i] = block + "\n" // v2 has a newline after each here, but not in signingCert
		}
		message.Chains = append(message.Chains, &fulciov2.CertificateChain{Certificates: lines})
		all = append(all, chain.PEM...)
	}
	rendered, _ := marshalJSON.Marshal(message) // holds only PEM, so this cannot fail
	// v1 has an empty line between certificates and no newline at the end.
	return &bundle{slices.Clone(chains), message, rendered, []byte(strings.Join(all, "\n\n"))}
}

// issue gets a certificate, and counts the outcome. The ID token is message, or in a header.
func (s *Server) issue(ctx context.Context, q *request, message string, p ca.Proof) (*ca.Issued, error) {
	token, err := idToken(message, q.authorization, q.token)
	if err != nil {
		return nil, err
	}
	reason := string(refusal.InternalError) // for a panic
	defer func() {
		q.steps.End()
		if q.caller.Token != nil { // so that callers without a token change no metric of an entry
			s.metrics.verified.WithLabelValues(reason).Inc()
			s.metrics.byIssuer.WithLabelValues(q.caller.Token.Entry, reason).Inc()
			if reason == reasonOK {
				s.issued.add(q.caller.Token.Entry, time.Now())
			}
			q.steps.Each(func(step ca.Step, begin, end time.Time) { q.observe(s.metrics.steps[step], end.Sub(begin)) })
		}
	}()
	admit := func(*ca.Caller) error { return s.admitCaller(ctx, q, token, p) }
	defer s.leave(q)
	issued, err := s.cfg.Issue(ctx, ca.Request{IDToken: token, Proof: p, RequestID: q.id, Client: q.client, Caller: &q.caller, Steps: &q.steps, Admit: admit})
	if err != nil {
		if reason = reasonOf(ctx, disclose(late(ctx, err))); q.behindOwn {
			reason = reasonOwn
		}
		return nil, err
	}
	reason = reasonOK
	sct := "none"
	if issued.SCTEmbedded {
		sct = "embedded"
	}
	s.metrics.issued.WithLabelValues(sct).Inc()
	s.metrics.fulcio.certificates.Add(1)
	return issued, nil
}

// proofOf returns the proof of possession in req.
func proofOf(req *fulciov2.CreateSigningCertificateRequest) ca.Proof {
	switch key := req.GetKey().(type) {
	case *fulciov2.CreateSigningCertificateRequest_PublicKeyRequest:
		return proof.SignedChallenge{
			PublicKey: []byte(key.PublicKeyRequest.GetPublicKey().GetContent()),
			Signature: key.PublicKeyRequest.GetProofOfPossession(),
		}
	case *fulciov2.CreateSigningCertificateRequest_CertificateSigningRequest:
		return proof.CSR{PEM: key.CertificateSigningRequest}
	default:
		return noProof{}
	}
}

// noProof is the proof of a request without a proof. It is refused where any other proof is
// checked, after the token, so that the order of refusals does not depend on the request.
type noProof struct{}

// Verify refuses.
func (noProof) Verify(*proof.KeyPolicy, proof.Challenge) (*proof.PublicKey, error) {
	return nil, refusal.New(refusal.KeyUnsupported, "the request holds no key to certify; send either a public key with a proof of possession, or a certificate signing request")
}

// chainPEM returns the certificate and its chain, leaf first and root last, one PEM block each,
// without a newline at the end.
func chainPEM(issued *ca.Issued) []string {
	leaf := string(appendPEM(make([]byte, 0, 2*len(issued.Certificate)), issued.Certificate, "\n")) // base64 is 1.4 times as long
	return append([]string{leaf}, issued.Chain.PEM...)
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
