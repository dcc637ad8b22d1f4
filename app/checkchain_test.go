// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// reissue replaces the world's chain: another root certifies the key of its authority, modified by
// change.
func reissue(t *testing.T, w *testworld.World, change func(issuing *x509.Certificate)) {
	t.Helper()
	file := must(filepath.Glob(filepath.Join(w.Dir, "ca", "*-a", "chain.pem")))(t)[0]
	block, _ := pem.Decode(must(os.ReadFile(file))(t))
	old := must(x509.ParseCertificate(block.Bytes))(t)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another root", Organization: []string{"tests"}},
		NotBefore: old.NotBefore, NotAfter: old.NotAfter, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true,
	}
	rootDER := must(x509.CreateCertificate(rand.Reader, root, root, key.Public(), key))(t)
	root = must(x509.ParseCertificate(rootDER))(t)
	issuing := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: old.Subject, NotBefore: old.NotBefore, NotAfter: old.NotAfter,
		KeyUsage: root.KeyUsage, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	change(issuing)
	der := must(x509.CreateCertificate(rand.Reader, issuing, root, old.PublicKey, key))(t)
	var text []byte
	for _, der := range [][]byte{der, rootDER} {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
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
					configuration := string(must(os.ReadFile(w.ConfigFile))(t))
					before, rest, _ := strings.Cut(configuration, "  file: ")
					_, after, _ := strings.Cut(rest, "\n")
					write(t, w, "mayfly.yaml", before+"  set: ca/ca.yaml\n"+after)
				}
				report, err := app.Check(t.Context(), app.CheckOptions{File: w.ConfigFile})
				if err != nil {
					t.Fatal(err)
				}
				expect(t, "config check", errors.Join(report.Mistakes...), test.check)
				_, err = build(t, w)
				expect(t, "serve", err, test.serve)
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

func expect(t *testing.T, what string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got error %v, want one that says %q", what, err, want)
	}
}
