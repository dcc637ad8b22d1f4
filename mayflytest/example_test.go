// SPDX-License-Identifier: Apache-2.0

package mayflytest_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/mayflytest"
)

// getCertificate is the client under test: it gets a certificate for a new key from the certificate
// authority at url. subject is what the token's claim email or sub contains.
func getCertificate(url, token, subject string) (*x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(subject))
	proof, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string]any{
		"credentials": map[string]any{"oidcIdentityToken": token},
		"publicKeyRequest": map[string]any{
			"publicKey":         map[string]any{"content": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))},
			"proofOfPossession": proof,
		},
	})
	if err != nil {
		return nil, err
	}
	response, err := http.Post(url+"/api/v2/signingCert", "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var answer struct {
		Message                      string // of a refusal
		SignedCertificateEmbeddedSct struct {
			Chain struct{ Certificates []string }
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", response.Status, answer.Message)
	}
	block, _ := pem.Decode([]byte(strings.Join(answer.SignedCertificateEmbeddedSct.Chain.Certificates, "\n")))
	if block == nil {
		return nil, errors.New("the answer has no certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// testGetCertificate is the test. In a package of your own its name is TestGetCertificate.
func testGetCertificate(t *testing.T) {
	// A world in which only jobs of the organization acme get certificates, for five minutes.
	world := mayflytest.New(t, mayflytest.Config{
		CertificateLifetime: 5 * time.Minute,
		Issuers: `
oidc-issuers:
  {url}/dev/issuers/github:
    issuer-url: "{url}/dev/issuers/github"
    client-id: sigstore
    type: ci-provider
    ci-provider: github-workflow
    allow: [{name: our organization, when: claims.repository_owner == "acme"}]
`,
	})
	token := world.TokenAs("github", map[string]string{"repo": "acme/app", "workflow": "release.yml"})
	certificate, err := getCertificate(world.URL, token, "repo:acme/app:ref:refs/heads/main")
	if err != nil {
		t.Fatal(err)
	}
	want := "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main"
	if len(certificate.URIs) != 1 || certificate.URIs[0].String() != want {
		t.Errorf("the certificate is for %v, want %s", certificate.URIs, want)
	}
	if lifetime := certificate.NotAfter.Sub(certificate.NotBefore); lifetime != 5*time.Minute {
		t.Errorf("the certificate is valid for %s", lifetime)
	}
	token = world.TokenAs("github", map[string]string{"repo": "other/app"})
	_, err = getCertificate(world.URL, token, "repo:other/app:ref:refs/heads/main")
	if err == nil || !strings.HasPrefix(err.Error(), "403 Forbidden: ") {
		t.Errorf("another organization: %v", err)
	}

	// A second world, without a Certificate Transparency log: what does the client make of an outage?
	world = mayflytest.New(t, mayflytest.Config{Fail: []string{"ct"}})
	_, err = getCertificate(world.URL, world.Token("alice@example.com"), "alice@example.com")
	if err == nil || !strings.HasPrefix(err.Error(), "503 Service Unavailable: ") {
		t.Errorf("no log: %v", err)
	}
}

// A client of the certificate authority, and its test.
func Example() {
	// go test does this by itself for a function TestGetCertificate.
	testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{
		{Name: "TestGetCertificate", F: testGetCertificate},
	})
}
