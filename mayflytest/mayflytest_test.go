// SPDX-License-Identifier: Apache-2.0

package mayflytest_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/mayflytest"
)

func TestTheExample(t *testing.T) {
	t.Parallel()
	testGetCertificate(t)
}

// recorder records what a world writes to the test's output.
type recorder struct {
	testing.TB
	out bytes.Buffer
}

func (r *recorder) Output() io.Writer { return &r.out }

func TestLogsOnRequestOnly(t *testing.T) {
	t.Parallel()
	for level, want := range map[string]string{"": "", "info": "msg=serving"} {
		r := &recorder{}
		t.Run("level "+level, func(t *testing.T) {
			r.TB = t
			mayflytest.New(r, mayflytest.Config{LogLevel: level})
		})
		if got := r.out.String(); !strings.Contains(got, want) || (got == "") != (level == "") {
			t.Errorf("at level %q, the output is %q", level, got)
		}
	}
}

// A world has its documents and services, and stops with its test.
func TestAWorldIsComplete(t *testing.T) {
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
			for _, url := range []string{
				w.IssuerURL + "/.well-known/openid-configuration", w.IssuerURLAs("github") + "/.well-known/openid-configuration",
				w.RekorURL + "/api/v2/checkpoint", w.TUFMirror + "/root.json",
			} {
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

// Two worlds of one test have nothing in common: each refuses the tokens of the other, and the
// certificates of one are not valid below the root of the other.
func TestTwoWorlds(t *testing.T) {
	t.Parallel()
	worlds := [2]*mayflytest.World{mayflytest.New(t), mayflytest.New(t)}
	for i, world := range worlds {
		other := worlds[1-i]
		certificate, err := getCertificate(world.URL, world.Token("alice@example.com"), "alice@example.com")
		if err != nil || len(certificate.EmailAddresses) != 1 || certificate.EmailAddresses[0] != "alice@example.com" {
			t.Fatalf("%v, %v", certificate, err)
		}
		options := func(w *mayflytest.World) x509.VerifyOptions {
			roots, intermediates := authorities(t, w)
			return x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
		}
		if _, err := certificate.Verify(options(world)); err != nil {
			t.Error(err)
		}
		if _, err := certificate.Verify(options(other)); err == nil {
			t.Error("the certificate is valid in the other world")
		}
		for kind, subject := range map[string]string{"email": "you@example.com", "spiffe": "spiffe://acme.example/ns/default/sa/signer"} {
			if _, err := getCertificate(world.URL, other.TokenAs(kind, nil), subject); err == nil || !strings.Contains(err.Error(), "not configured") {
				t.Errorf("a token of the other world: %v", err)
			}
			// Also if it claims to be of this world: the key is the other's.
			token := other.TokenAsWith(kind, nil, map[string]any{"iss": world.IssuerURLAs(kind)})
			if _, err := getCertificate(world.URL, token, subject); err == nil || !strings.Contains(err.Error(), "401") {
				t.Errorf("a token of the other world with the issuer URL of this one: %v", err)
			}
		}
	}
}

// authorities are the roots and intermediates of a world's trusted root.
func authorities(t *testing.T, w *mayflytest.World) (roots, intermediates *x509.CertPool) {
	t.Helper()
	var trusted struct {
		CertificateAuthorities []struct {
			CertChain struct{ Certificates []struct{ RawBytes []byte } }
		}
	}
	if err := json.Unmarshal(w.TrustedRoot(), &trusted); err != nil || len(trusted.CertificateAuthorities) != 1 {
		t.Fatalf("%s: %v", w.TrustedRoot(), err)
	}
	roots, intermediates = x509.NewCertPool(), x509.NewCertPool()
	pool := intermediates
	chain := trusted.CertificateAuthorities[0].CertChain.Certificates
	for i, raw := range chain {
		certificate, err := x509.ParseCertificate(raw.RawBytes)
		if err != nil {
			t.Fatal(err)
		}
		if i == len(chain)-1 {
			pool = roots
		}
		pool.AddCert(certificate)
	}
	return roots, intermediates
}
