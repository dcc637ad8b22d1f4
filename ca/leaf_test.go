// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
)

// parseLeaf reads tbs with crypto/x509, and is the oracle of compare: what compare accepts, a verifier
// reads with the same fields. It returns the OID of the last extension if that is the poison or the
// SCT list.
func parseLeaf(tbs []byte, algorithm certs.SignatureAlgorithm) (t certs.Template, last asn1.ObjectIdentifier, err error) {
	c, err := x509.ParseCertificate(certs.Assemble(tbs, algorithm, nil))
	if err != nil {
		return t, nil, err
	}
	t = certs.Template{
		SerialNumber: c.SerialNumber.Bytes(), SignatureAlgorithm: algorithm, Issuer: c.RawIssuer, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		PublicKey: c.RawSubjectPublicKeyInfo, AuthorityKeyID: c.AuthorityKeyId,
	}
	san, err1 := certs.SANOf(c)
	claims, err2 := certs.ParseExtensions(c.Extensions)
	subjectKeyID, err3 := certs.SubjectKeyID(c.RawSubjectPublicKeyInfo)
	if err := errors.Join(err1, err2, err3); err != nil {
		return t, nil, err
	}
	t.SAN, t.Extensions = san, claims
	number := 5
	for range claims.All() {
		number++
	}
	if end := c.Extensions[len(c.Extensions)-1]; end.Id.Equal(certs.OIDPoison) || end.Id.Equal(certs.OIDSCTList) {
		last = end.Id
		number++
	}
	for _, e := range c.Extensions {
		critical := e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 15}) || e.Id.Equal(certs.OIDSubjectAltName) || e.Id.Equal(certs.OIDPoison)
		if critical != e.Critical {
			return t, nil, fmt.Errorf("extension %s has critical %t", e.Id, e.Critical)
		}
	}
	if !bytes.Equal(c.RawTBSCertificate, tbs) || c.Version != 3 || c.SignatureAlgorithm != algorithm.X509() || !bytes.Equal(c.RawSubject, []byte{0x30, 0}) ||
		!bytes.Equal(c.SubjectKeyId, subjectKeyID) || len(c.AuthorityKeyId) == 0 || c.KeyUsage != x509.KeyUsageDigitalSignature ||
		c.BasicConstraintsValid || c.IsCA || len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageCodeSigning || len(c.UnknownExtKeyUsage) > 0 ||
		len(c.Extensions) != number {
		return t, nil, errors.New("it is no leaf of the profile")
	}
	return t, last, nil
}

// form is one of the three forms of a TBS, and what compare expects of it.
type form struct {
	tbs      []byte
	poisoned bool
	sctList  []byte
	last     asn1.ObjectIdentifier
}

func formsOf(tbs *certs.TBS) []form {
	list := []byte("\x00\x07\x00\x05abcde")
	return []form{{tbs.Precertificate(), true, nil, certs.OIDPoison}, {tbs.Certificate(list), false, list, certs.OIDSCTList}, {tbs.Certificate(nil), false, nil, nil}}
}

// shapes has a certificate for each shape that the encoder distinguishes. They are the same in every
// process but for two public keys.
func shapes(t testing.TB) map[string]certs.Template {
	all := map[string]certs.Template{}
	for name, change := range map[string]func(*certs.Template){
		"few claims": func(*certs.Template) {},
		"no claims":  func(t *certs.Template) { t.Extensions = certs.Extensions{} },
		"all claims": func(t *certs.Template) {
			for _, e := range certs.Table() {
				t.Extensions[e.Arc] = "https://github.com/owner/" + e.Name
			}
		},
		"long claim": func(t *certs.Template) { t.Extensions[certs.BuildConfigURI] = strings.Repeat("x", 300) },
		"email":      func(t *certs.Template) { t.SAN = certs.SAN{Kind: certs.SANEmail, Value: "person@example.com"} },
		"user name":  func(t *certs.Template) { t.SAN = certs.SAN{Kind: certs.SANUserName, Value: "pérson!example.com"} },
		"until 2050": func(t *certs.Template) { t.NotAfter = time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC) },
		"P-384": func(template *certs.Template) {
			key := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t).Public()
			template.PublicKey, template.SignatureAlgorithm = spkiOf(t, key), must(certs.SignatureAlgorithmFor(key))(t)
		},
		"RSA": func(template *certs.Template) {
			key := must(rsa.GenerateKey(rand.Reader, 2048))(t).Public()
			template.PublicKey, template.SignatureAlgorithm = spkiOf(t, key), must(certs.SignatureAlgorithmFor(key))(t)
		},
	} {
		template := fixedBench(t).template
		change(&template)
		all[name] = template
	}
	return all
}

// compare accepts exactly the one encoding of what is expected: no octet and no length is free.
func TestCompareRefusesEveryBit(t *testing.T) {
	t.Parallel()
	for name, template := range shapes(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			forms := formsOf(must(certs.NewTBS(template))(t))
			for i, f := range forms {
				if err := compare(f.tbs, &template, f.poisoned, f.sctList); err != nil {
					t.Fatalf("form %d: %v", i, err)
				}
				if got, last, err := parseLeaf(f.tbs, template.SignatureAlgorithm); err != nil || !sameFields(&got, &template) || !last.Equal(f.last) {
					t.Errorf("form %d: crypto/x509 reads %+v, last %s, %v", i, got, last, err)
				}
				for bit := range 8 * len(f.tbs) {
					changed := bytes.Clone(f.tbs)
					changed[bit/8] ^= 1 << (bit % 8)
					if compare(changed, &template, f.poisoned, f.sctList) == nil {
						t.Errorf("form %d passes with bit %d of octet %d changed", i, bit%8, bit/8)
					}
				}
				for length := range f.tbs {
					if compare(f.tbs[:length], &template, f.poisoned, f.sctList) == nil {
						t.Errorf("form %d passes with %d octets", i, length)
					}
				}
				if compare(append(bytes.Clone(f.tbs), 0), &template, f.poisoned, f.sctList) == nil {
					t.Errorf("form %d passes with an octet behind it", i)
				}
				for j, other := range forms {
					if i != j && compare(f.tbs, &template, other.poisoned, other.sctList) == nil {
						t.Errorf("form %d passes as form %d", i, j)
					}
				}
			}
		})
	}
}

func sameFields(a, b *certs.Template) bool {
	return bytes.Equal(a.SerialNumber, b.SerialNumber) && a.SignatureAlgorithm == b.SignatureAlgorithm && bytes.Equal(a.Issuer, b.Issuer) &&
		a.NotBefore.Equal(b.NotBefore) && a.NotAfter.Equal(b.NotAfter) && bytes.Equal(a.PublicKey, b.PublicKey) &&
		bytes.Equal(a.AuthorityKeyID, b.AuthorityKeyID) && a.SAN == b.SAN && a.Extensions == b.Extensions
}

// Each field and each extension is compared: one that is absent, repeated, moved or different is refused.
func TestCompareRefusesExtensions(t *testing.T) {
	t.Parallel()
	template := shapes(t)["all claims"]
	for _, form := range formsOf(must(certs.NewTBS(template))(t)) {
		for i := 0; ; i++ {
			var f fields
			must(asn1.Unmarshal(form.tbs, &f))(t)
			if i > f.last() {
				break
			}
			good := f.Extensions
			for name, change := range map[string]func(){
				"dropped":  func() { f.drop(i) },
				"repeated": func() { f.insert(i, f.Extensions[i]) },
				"moved":    func() { e := f.Extensions[i]; f.drop(i); f.insert((i+1)%len(good), e) },
				"critical": func() { f.flip(i) },
				"longer":   func() { f.set(i, string(f.Extensions[i].Value)+"x") },
				"empty":    func() { f.set(i, "") },
				"preceded": func() { f.insert(i, extensionOf(false, "\x05\x00", 1, 2, 3)) },
				"followed": func() { f.insert(i+1, extensionOf(false, "\x0c\x01x", append(slices.Clone(certs.OIDSigstore), 25)...)) },
			} {
				f.Extensions = slices.Clone(good)
				if change(); compare(must(asn1.Marshal(f))(t), &template, form.poisoned, form.sctList) == nil {
					t.Errorf("extension %d %s: passes", i, name)
				}
			}
		}
	}
}

func TestCompareAllocatesLittle(t *testing.T) {
	for name, template := range shapes(t) {
		for i, f := range formsOf(must(certs.NewTBS(template))(t)) {
			if got := testing.AllocsPerRun(10, func() { _ = compare(f.tbs, &template, f.poisoned, f.sctList) }); got > 1 { // the subject key identifier
				t.Errorf("%s, form %d: %g allocations", name, i, got)
			}
		}
	}
}

// FuzzCompare: what compare accepts with the fields that crypto/x509 reads is a leaf of the profile to
// crypto/x509, and the one encoding of these fields. It refuses nothing that the encoder writes.
func FuzzCompare(f *testing.F) {
	for name, template := range shapes(f) {
		if name != "P-384" && name != "RSA" {
			for _, form := range formsOf(must(certs.NewTBS(template))(f)) {
				f.Add(form.tbs)
			}
		}
	}
	algorithm := fixedBench(f).template.SignatureAlgorithm
	f.Fuzz(func(t *testing.T, tbs []byte) {
		template, last, err := parseLeaf(tbs, algorithm)
		c, parseErr := x509.ParseCertificate(certs.Assemble(tbs, algorithm, nil))
		if parseErr != nil {
			return
		}
		var list []byte
		if last.Equal(certs.OIDSCTList) {
			_, _ = asn1.Unmarshal(c.Extensions[len(c.Extensions)-1].Value, &list)
		}
		accepted := compare(tbs, &template, last.Equal(certs.OIDPoison), list) == nil
		if accepted && err != nil {
			t.Fatalf("compare accepts what is no leaf: %v", err)
		}
		encoder, encodeErr := certs.NewTBS(template)
		if err != nil || encodeErr != nil {
			return
		}
		encoded := encoder.Certificate(list)
		if last.Equal(certs.OIDPoison) {
			encoded = encoder.Precertificate()
		}
		if accepted != bytes.Equal(encoded, tbs) {
			t.Fatalf("compare accepts: %t; the encoding of the same fields is\n%x, not\n%x", accepted, encoded, tbs)
		}
	})
}
