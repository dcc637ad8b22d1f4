// SPDX-License-Identifier: Apache-2.0

package mayflytest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/mayflytest"
)

// A client in its smallest form gets a certificate.
func TestACertificate(t *testing.T) {
	t.Parallel()
	world := mayflytest.New(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("alice@example.com"))
	proof, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{
		"credentials": map[string]any{"oidcIdentityToken": world.Token("alice@example.com")},
		"publicKeyRequest": map[string]any{
			"publicKey":         map[string]any{"content": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))},
			"proofOfPossession": proof,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(world.URL+"/api/v2/signingCert", "application/json", strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		SignedCertificateEmbeddedSct struct {
			Chain struct{ Certificates []string }
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response.Status, err)
	}
	certificates := answer.SignedCertificateEmbeddedSct.Chain.Certificates
	if len(certificates) != 3 {
		t.Fatalf("a chain of %d", len(certificates))
	}
	block, _ := pem.Decode([]byte(certificates[0]))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(leaf.EmailAddresses) != 1 || leaf.EmailAddresses[0] != "alice@example.com" {
		t.Errorf("%v, %v", leaf, err)
	}
}

// Two worlds in one process are independent, and stop with their tests.
func TestWorldsAreTheirOwn(t *testing.T) {
	t.Parallel()
	var urls []string
	for range 2 {
		t.Run("world", func(t *testing.T) {
			w := mayflytest.New(t)
			urls = append(urls, w.URL)
			for name, document := range map[string][]byte{
				"trusted root": w.TrustedRoot(), "signing config": w.SigningConfig(), "TUF root": w.TUFRoot(),
			} {
				if !json.Valid(document) {
					t.Errorf("the %s is no JSON: %s", name, document)
				}
			}
			for _, url := range []string{w.IssuerURL + "/.well-known/openid-configuration", w.RekorURL + "/api/v2/checkpoint", w.TUFMirror + "/root.json"} {
				response, err := http.Get(url)
				if err != nil || response.StatusCode != http.StatusOK {
					t.Fatalf("%s: %v, %v", url, response, err)
				}
				_ = response.Body.Close()
			}
		})
	}
	for _, url := range urls {
		if response, err := http.Get(url + "/healthz"); err == nil {
			_ = response.Body.Close()
			t.Errorf("%s still answers", url)
		}
	}
}
