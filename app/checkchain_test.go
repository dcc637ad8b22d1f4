// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// reissue replaces the world's chain: another root certifies the key of its authority, modified by
// change.
func reissue(t *testing.T, w *testworld.World, change func(issuing *x509.Certificate)) {
	t.Helper()
	old := must(pem.Certificates(must(os.ReadFile(path(w, chainFile)))(t)))(t)[0]
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	ca := func(serial int64, subject pkix.Name) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: subject, NotBefore: old.NotBefore, NotAfter: old.NotAfter,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
		}
	}
	root := ca(1, pkix.Name{CommonName: "another root", Organization: []string{"tests"}})
	rootDER := must(x509.CreateCertificate(rand.Reader, root, root, key.Public(), key))(t)
	root = must(x509.ParseCertificate(rootDER))(t)
	issuing := ca(2, old.Subject)
	issuing.ExtKeyUsage, issuing.MaxPathLenZero = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, true
	change(issuing)
	der := must(x509.CreateCertificate(rand.Reader, issuing, root, old.PublicKey, key))(t)
	written(chainFile, string(pem.Encode("CERTIFICATE", der))+string(pem.Encode("CERTIFICATE", rootDER)))(t, w)
}

// A chain below which no certificate verifies is a mistake in config check and stops serve. One
// below which no certificate of a configured issuer verifies is a mistake in config check.
func TestChainThatExcludesAnIssuer(t *testing.T) {
	t.Parallel()
	explicitPolicy := pkix.Extension{Id: []int{2, 5, 29, 36}, Critical: true, Value: []byte{0x30, 3, 0x80, 1, 0}}
	for name, test := range map[string]struct {
		change       func(issuing *x509.Certificate)
		check, serve string
	}{
		"plain":         {func(*x509.Certificate) {}, "", ""},
		"another email": {func(c *x509.Certificate) { c.PermittedEmailAddresses = []string{"corp.example"} }, "", ""},
		"no email": {func(c *x509.Certificate) {
			c.PermittedEmailAddresses, c.ExcludedEmailAddresses = []string{"corp.example"}, []string{"corp.example"}
		}, "issuers.yaml:5:11: the chain of authority", ""},
		"no verifier": {func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{explicitPolicy} },
			"no verifier accepts a certificate below the chain", "no verifier accepts a certificate below the chain"},
	} {
		for _, set := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				reissue(t, w, test.change)
				if set {
					withSet(t, w)
				}
				expect(t, "config check", errors.Join(check(t, w, nil).Mistakes...), test.check)
				expect(t, "serve", build(t, w), test.serve)
			})
		}
	}
}

// If serve refuses a token because of a name constraint, explain refuses it too.
func TestExplainNameConstraints(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reissue(t, w, func(c *x509.Certificate) { c.PermittedEmailAddresses = []string{"corp.example"} })
	for address, want := range map[string]string{"ada@corp.example": "", "ada@other.example": "POLICY_DENIED"} {
		claims := fmt.Sprintf(`{"iss": %q, "aud": "sigstore", "sub": "1", "email": %q, "email_verified": true}`, w.Provider.IssuerURL(), address)
		x := must(app.Explain(t.Context(), app.ExplainOptions{File: w.ConfigFile, Claims: []byte(claims)}))(t)
		if x.Reason != want {
			t.Errorf("%s: got %q (%s), want %q", address, x.Reason, x.Message, want)
		}
	}
}
