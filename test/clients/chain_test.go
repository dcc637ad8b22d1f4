// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/asn1"
	"testing"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/ctutil"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"
)

// checkChain checks the chain for alice and key against everything that any client of the family
// requires.
func checkChain(t *testing.T, w *world, chain []*x509.Certificate, key *ecdsa.PrivateKey, issuer string) {
	t.Helper()
	if len(chain) < 2 {
		t.Fatalf("the chain has %d certificates; -python and -rs want two at least", len(chain))
	}
	leaf := chain[0]
	if !key.PublicKey.Equal(leaf.PublicKey) {
		t.Error("the certificate is for another key")
	}
	// -java: the chain must end as the trusted root does, root included.
	equalChains(t, chain[1:], w.ca)
	if leaf.NotBefore.Before(w.ca[0].NotBefore) {
		t.Error("the certificate begins before the CA, so that -java would look for another CA")
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(chain[len(chain)-1])
	for _, c := range chain[1 : len(chain)-1] {
		intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(leaf.AuthorityKeyId, chain[1].SubjectKeyId) || len(leaf.AuthorityKeyId) == 0 {
		t.Error("the certificate's AKI is not the SKI above it, as -python demands")
	}
	if len(leaf.EmailAddresses) != 1 || leaf.EmailAddresses[0] != alice || len(leaf.Subject.Names) != 0 {
		t.Errorf("the certificate names %v, and in its subject %v", leaf.EmailAddresses, leaf.Subject)
	}
	checkIssuer(t, leaf, issuer)
	checkSCT(t, w, chain)
}

// checkIssuer requires the issuer of the ID token in both forms: -python and -rs read the raw bytes
// of .1, -ruby the UTF8String of .8.
func checkIssuer(t *testing.T, leaf *x509.Certificate, issuer string) {
	t.Helper()
	values := map[string][]byte{}
	for _, e := range leaf.Extensions {
		values[e.Id.String()] = e.Value
	}
	if got := string(values["1.3.6.1.4.1.57264.1.1"]); got != issuer {
		t.Errorf("extension .1 is %q, want %q", got, issuer)
	}
	var v2 string
	rest, err := asn1.UnmarshalWithParams(values["1.3.6.1.4.1.57264.1.8"], &v2, "utf8")
	if err != nil || len(rest) > 0 || v2 != issuer {
		t.Errorf("extension .8 is %q, %v, want %q", v2, err, issuer)
	}
}

// checkSCT requires exactly one SCT, which is the log's promise for this certificate, and that the
// log has kept it: the entry is in the tree.
func checkSCT(t *testing.T, w *world, chain []*x509.Certificate) {
	t.Helper()
	var parsed []*ctx509.Certificate
	for _, c := range chain[:2] {
		p, err := ctx509.ParseCertificate(c.Raw)
		if ctx509.IsFatal(err) {
			t.Fatal(err)
		}
		parsed = append(parsed, p)
	}
	scts, err := x509util.ParseSCTsFromSCTList(&parsed[0].SCTList)
	if err != nil || len(scts) != 1 {
		t.Fatalf("the certificate has %d SCTs, %v; -python wants one", len(scts), err)
	}
	if err := ctutil.VerifySCT(w.log.key, parsed, scts[0], true); err != nil {
		t.Errorf("verifying SCT: %v", err)
	}
	leaf, err := ct.MerkleTreeLeafForEmbeddedSCT(parsed, scts[0].Timestamp)
	if err != nil {
		t.Fatal(err)
	}
	want := leaf.TimestampedEntry.PrecertEntry.TBSCertificate
	entries, err := w.log.Entries()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if p := e.Leaf.TimestampedEntry.PrecertEntry; p != nil && bytes.Equal(p.TBSCertificate, want) {
			return
		}
	}
	t.Error("the certificate is not in the log")
}

func equalChains(t *testing.T, got, want []*x509.Certificate) {
	t.Helper()
	if !bytes.Equal(bytes.Join(rawCertificates(got), nil), bytes.Join(rawCertificates(want), nil)) {
		t.Errorf("a chain of %d certificates is not the CA's of %d", len(got), len(want))
	}
}
