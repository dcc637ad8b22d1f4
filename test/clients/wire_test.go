// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	fulciopb "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// testWire sends the same requests as the clients that cannot be installed here, and requires the
// same answers, with plain code.
func testWire(t *testing.T, w *world) {
	runChecks(t, w, []check{
		{"sigstore-python and -rs: a CSR over REST v2", wirePython},
		{"sigstore-ruby: a CSR, and the token in the body", wireRuby},
		{"sigstore-java: gRPC over TLS on the port of REST", wireJava},
		{"gRPC without TLS on a port of its own", wirePlainGRPC},
		{"gitsign: REST v1 with a key in DER", wireGitsign},
		{"REST v1 with a CSR", wireLegacyCSR},
		{"the trust bundle is the trusted root's, over every API", wireTrustBundle},
	})
}

// newKey returns a key as a client generates one for a single signature.
func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newCSR returns a CSR in PEM with the content of sigstore-python's: the e-mail address as subject,
// and basic constraints. A CA must not copy them.
func newCSR(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	notCA, err := asn1.Marshal(struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
			{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, Value: "mallory@example.org"},
		}},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: notCA}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// newChallenge returns key's public half, DER, and its signature over the challenge of alice's
// token.
func newChallenge(t *testing.T, key *ecdsa.PrivateKey) (spki, proof []byte) {
	t.Helper()
	digest := sha256.Sum256([]byte(alice))
	proof, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if spki, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		t.Fatal(err)
	}
	return spki, proof
}

// post sends request as JSON and returns the answer, which must have the expected status.
func post(t *testing.T, at endpoint, path, token string, request any, status int) (http.Header, []byte) {
	t.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/pem-certificate-chain") // sigstore-python sends this, and then parses JSON
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := at.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || resp.StatusCode != status {
		t.Fatalf("POST %s: %s, want %d: %s, %v", path, resp.Status, status, answer, err)
	}
	return resp.Header, answer
}

// embedded returns the chain of a REST v2 answer as the clients read it that know only the form
// with an embedded SCT.
func embedded(t *testing.T, answer []byte) []*x509.Certificate {
	t.Helper()
	var body struct {
		Embedded struct {
			Chain struct {
				Certificates []string `json:"certificates"`
			} `json:"chain"`
		} `json:"signedCertificateEmbeddedSct"`
	}
	if err := json.Unmarshal(answer, &body); err != nil {
		t.Fatal(err)
	}
	return parseCertificates(t, []byte(strings.Join(body.Embedded.Chain.Certificates, "\n")))
}

func wirePython(t *testing.T, w *world) {
	key := newKey(t)
	_, answer := post(t, w.plain, "/api/v2/signingCert", w.aliceToken(t),
		map[string]any{"certificateSigningRequest": newCSR(t, key)}, http.StatusOK)
	chain := embedded(t, answer)
	checkChain(t, w, chain, key, w.email.url)
	if rootKey := chain[len(chain)-1]; rootKey.KeyUsage&x509.KeyUsageCertSign == 0 {
		t.Error("the root has no key usage, which sigstore-python demands")
	}
}

func wireRuby(t *testing.T, w *world) {
	key := newKey(t)
	_, answer := post(t, w.shared, "/api/v2/signingCert", "", map[string]any{
		"credentials":               map[string]any{"oidcIdentityToken": w.aliceToken(t)},
		"certificateSigningRequest": newCSR(t, key),
	}, http.StatusOK)
	checkChain(t, w, embedded(t, answer), key, w.email.url)
}

// dial returns a connection to the gRPC service of at.
func dial(t *testing.T, at endpoint) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if at.roots != nil {
		creds = credentials.NewClientTLSFromCert(at.roots, "")
	}
	conn, err := grpc.NewClient(at.grpc, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// askGRPC requests a certificate by signed challenge, with the token in the message.
func askGRPC(t *testing.T, w *world, at endpoint, key *ecdsa.PrivateKey) []*x509.Certificate {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	conn := dial(t, at)
	health, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil || health.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("grpc.health.v1 says %v, %v", health.GetStatus(), err)
	}
	spki, proof := newChallenge(t, key)
	resp, err := fulciopb.NewCAClient(conn).CreateSigningCertificate(ctx, &fulciopb.CreateSigningCertificateRequest{
		Credentials: &fulciopb.Credentials{Credentials: &fulciopb.Credentials_OidcIdentityToken{OidcIdentityToken: w.aliceToken(t)}},
		Key: &fulciopb.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciopb.PublicKeyRequest{
			PublicKey: &fulciopb.PublicKey{
				Algorithm: fulciopb.PublicKeyAlgorithm_ECDSA,
				Content:   string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})),
			},
			ProofOfPossession: proof,
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return parseCertificates(t, []byte(strings.Join(resp.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates(), "\n")))
}

// sigstore-java takes the URL of a signing config, and connects by gRPC to its host and port.
func wireJava(t *testing.T, w *world) {
	key := newKey(t)
	checkChain(t, w, askGRPC(t, w, w.shared, key), key, w.email.url)
}

func wirePlainGRPC(t *testing.T, w *world) {
	key := newKey(t)
	checkChain(t, w, askGRPC(t, w, w.plain, key), key, w.email.url)
}

func wireGitsign(t *testing.T, w *world) {
	key := newKey(t)
	spki, proof := newChallenge(t, key)
	header, answer := post(t, w.plain, "/api/v1/signingCert", w.aliceToken(t), map[string]any{
		"publicKey":                 map[string]any{"content": spki, "algorithm": "ecdsa"},
		"signedEmailAddress":        proof,
		"certificateSigningRequest": nil,
	}, http.StatusCreated)
	if got := header.Get("Content-Type"); got != "application/pem-certificate-chain" {
		t.Errorf("Content-Type is %q", got)
	}
	if header.Values("SCT") != nil {
		t.Error("there is a header SCT beside an embedded SCT")
	}
	checkChain(t, w, parseCertificates(t, answer), key, w.email.url)
}

func wireLegacyCSR(t *testing.T, w *world) {
	key := newKey(t)
	_, answer := post(t, w.shared, "/api/v1/signingCert", w.aliceToken(t), map[string]any{
		"certificateSigningRequest": base64.StdEncoding.EncodeToString(newCSR(t, key)),
	}, http.StatusCreated)
	checkChain(t, w, parseCertificates(t, answer), key, w.email.url)
}

func wireTrustBundle(t *testing.T, w *world) {
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	for _, at := range []endpoint{w.plain, w.shared} {
		resp, err := fulciopb.NewCAClient(dial(t, at)).GetTrustBundle(ctx, &fulciopb.GetTrustBundleRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(resp.GetChains()); n != 1 {
			t.Fatalf("the trust bundle of %s has %d chains", at.grpc, n)
		}
		equalChains(t, parseCertificates(t, []byte(strings.Join(resp.GetChains()[0].GetCertificates(), ""))), w.ca)

		var bundle struct {
			Chains []struct {
				Certificates []string `json:"certificates"`
			} `json:"chains"`
		}
		if err := json.Unmarshal(fetch(t, at.client, at.url+"/api/v2/trustBundle"), &bundle); err != nil {
			t.Fatal(err)
		}
		if n := len(bundle.Chains); n != 1 {
			t.Fatalf("the trust bundle of %s has %d chains", at.url, n)
		}
		equalChains(t, parseCertificates(t, []byte(strings.Join(bundle.Chains[0].Certificates, ""))), w.ca)
		equalChains(t, parseCertificates(t, fetch(t, at.client, at.url+"/api/v1/rootCert")), w.ca)
	}
}
