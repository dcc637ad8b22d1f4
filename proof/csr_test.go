// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"
)

func csrDER(t testing.TB, key crypto.Signer, algorithm x509.SignatureAlgorithm) []byte {
	return must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "anybody"}, EmailAddresses: []string{"anybody@example.com"}, SignatureAlgorithm: algorithm,
	}, key))(t)
}

// csrParts are parts of a CSR, DER, that replace the correct ones.
type csrParts struct {
	version, subject, spki, attributes, algorithm []byte
	inTheEnd, atTheEndOfInfo                      []byte
}

// rebuild signs a CSR with parts in place of the usual ones. An attributes part that is empty but
// not nil omits the field.
func rebuild(t testing.TB, key crypto.Signer, parts csrParts) []byte {
	t.Helper()
	or := func(part []byte, usual string) []byte {
		if part != nil {
			return part
		}
		return []byte(usual)
	}
	identifiers := map[string]string{
		"ed25519": "\x30\x05\x06\x03\x2b\x65\x70", "ecdsa-p256": "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02",
		"rsa-2048": "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00",
	}
	var info cryptobyte.Builder
	info.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(or(parts.version, "\x02\x01\x00"))
		b.AddBytes(or(parts.subject, "\x30\x00"))
		b.AddBytes(or(parts.spki, string(spki(t, key.Public()))))
		b.AddBytes(or(parts.attributes, "\xa0\x00"))
		b.AddBytes(parts.atTheEndOfInfo)
	})
	signed := info.BytesOrPanic()
	var csr cryptobyte.Builder
	csr.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(signed)
		b.AddBytes(or(parts.algorithm, identifiers[schemeOf(key.Public()).algorithm]))
		b.AddASN1BitString(sign(t, key, string(signed)))
		b.AddBytes(parts.inTheEnd)
	})
	return csr.BytesOrPanic()
}

// TestCSROddities: CSRs that tools write, and CSRs that only an attacker writes.
func TestCSROddities(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t)
	ec, ed, rsa2048 := ecdsaKey(t, elliptic.P256()), ed25519Key(t), rsaKey(t, 2048)
	for name, test := range map[string]struct {
		der    []byte
		reason refusal.Reason // "" for a CSR that is good
		words  string
	}{
		"plain":                   {rebuild(t, ec, csrParts{}), "", ""},
		"attributes left out":     {rebuild(t, ec, csrParts{attributes: []byte{}}), "", ""},
		"attributes of nonsense":  {rebuild(t, ec, csrParts{attributes: []byte("\xa0\x02hi")}), "", ""},
		"subject of nonsense":     {rebuild(t, ec, csrParts{subject: []byte("\x30\x02hi")}), "", ""},
		"ECDSA with NULL":         {rebuild(t, ec, csrParts{algorithm: []byte("\x30\x0c\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02\x05\x00")}), "", ""},
		"RSA without NULL":        {rebuild(t, rsa2048, csrParts{algorithm: []byte("\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b")}), "", ""},
		"Ed25519 with NULL":       {rebuild(t, ed, csrParts{algorithm: []byte("\x30\x07\x06\x03\x2b\x65\x70\x05\x00")}), refusal.CSRInvalid, "needs Ed25519"},
		"ECDSA with parameters":   {rebuild(t, ec, csrParts{algorithm: []byte("\x30\x0d\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02\x02\x01\x00")}), refusal.CSRInvalid, "needs ECDSA-SHA256"},
		"algorithm of another":    {rebuild(t, ec, csrParts{algorithm: []byte("\x30\x05\x06\x03\x2b\x65\x70")}), refusal.CSRInvalid, "1.3.101.112"},
		"version 2":               {rebuild(t, ec, csrParts{version: []byte("\x02\x01\x01")}), refusal.CSRInvalid, "version 1"},
		"version missing":         {rebuild(t, ec, csrParts{version: []byte{}}), refusal.CSRInvalid, "version 1"},
		"key missing":             {rebuild(t, ec, csrParts{spki: []byte{}}), refusal.CSRInvalid, "version 1"},
		"key of nonsense":         {rebuild(t, ec, csrParts{spki: []byte("\x30\x02hi")}), refusal.CSRInvalid, "the CSR's public key cannot be used"},
		"a key of somebody else":  {rebuild(t, ec, csrParts{spki: spki(t, ecdsaKey(t, elliptic.P256()).Public())}), refusal.ProofInvalid, "does not verify"},
		"more in the info":        {rebuild(t, ec, csrParts{atTheEndOfInfo: []byte("\x05\x00")}), refusal.CSRInvalid, "version 1"},
		"more in the CSR":         {rebuild(t, ec, csrParts{inTheEnd: []byte("\x05\x00")}), refusal.CSRInvalid, "not one CertificationRequest"},
		"trailing":                {append(rebuild(t, ec, csrParts{}), 0), refusal.CSRInvalid, "not one CertificationRequest"},
		"algorithm of a long OID": {rebuild(t, ec, csrParts{algorithm: longAlgorithm(t)}), refusal.CSRInvalid, "…"},
		"nothing inside":          {nil, refusal.CSRInvalid, "not one CertificationRequest"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := CSR{pemOf("CERTIFICATE REQUEST", test.der)}.Verify(policy, sub)
			if test.reason != "" {
				checkRefusal(t, err, test.reason, test.words)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func longAlgorithm(t testing.TB) []byte {
	oid := make(asn1.ObjectIdentifier, 2000)
	oid[0], oid[1] = 1, 3
	return must(asn1.Marshal(pkix.AlgorithmIdentifier{Algorithm: oid}))(t)
}

func TestCSRForms(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t)
	der := csrDER(t, ecdsaKey(t, elliptic.P256()), 0)
	text := pemOf("CERTIFICATE REQUEST", der)
	for name, test := range map[string]struct {
		input []byte
		words string
	}{
		"missing":             {nil, "0 bytes, not 1 to 16384"},
		"too large":           {bytes.Repeat([]byte("a"), maxCSR+1), "16385 bytes"},
		"cut short":           {text[:len(text)-20], "PEM cannot be decoded"},
		"another block first": {append(pemOf("X509 CRL", der), text...), `of type "X509 CRL"`},
		"a long type":         {pemOf(strings.Repeat("A", 300), der), "…"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := CSR{test.input}.Verify(policy, sub)
			checkRefusal(t, err, refusal.CSRInvalid, "the CSR cannot be used", test.words)
		})
	}
}

// FuzzCSR: no input causes a panic (as in CVE-2026-40097, elsewhere). If crypto/x509 reads what we
// accept, it reads a CSR of the same key that verifies.
func FuzzCSR(f *testing.F) {
	for _, key := range []crypto.Signer{ecdsaKey(f, elliptic.P256()), ed25519Key(f), rsaKey(f, 2048)} {
		f.Add(csrDER(f, key, 0), "")
		f.Add(rebuild(f, key, csrParts{attributes: []byte{}}), "")
	}
	f.Add(csrDER(f, ecdsaKey(f, elliptic.P256()), 0), "NEW CERTIFICATE REQUEST")
	f.Add([]byte("\x30\x00"), "")
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----"), "text")
	policy := newPolicy(f)
	f.Fuzz(func(t *testing.T, input []byte, form string) {
		text := input
		switch form {
		case "":
			text = pemOf("CERTIFICATE REQUEST", input)
		case "NEW CERTIFICATE REQUEST":
			text = oneLine(form, input)
		}
		got, err := CSR{text}.Verify(policy, sub)
		if err != nil {
			var refused *refusal.Error
			if !errors.As(err, &refused) {
				t.Fatalf("not a refusal: %v", err)
			}
			checkMessage(t, refused)
			return
		}
		block, _ := pem.Decode(text)
		oracle, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return // crypto/x509 also reads name and attributes
		}
		if err := oracle.CheckSignature(); err != nil {
			t.Fatal(err)
		}
		if !got.Key.(interface{ Equal(crypto.PublicKey) bool }).Equal(oracle.PublicKey) {
			t.Fatal("not the key that crypto/x509 reads")
		}
	})
}
