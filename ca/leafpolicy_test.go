// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	stdasn1 "encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
)

func TestLeafPolicyLetsTheProfilePass(t *testing.T) {
	t.Parallel()
	b := newPolicyBench(t)
	logged, unlogged := newPolicy(t, false), newPolicy(t, true)
	for name, tbs := range map[string][]byte{"precertificate": b.precertificate(t), "certificate": b.certificate(t), "self-test": []byte(signer.SelfTestMessage)} {
		for _, p := range []*LeafPolicy{logged, unlogged} {
			if err := p.Check(b.chain, tbs, b.now); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if err := unlogged.Check(b.chain, b.unlogged(t), b.now); err != nil {
		t.Error(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(){
		"no claims": func() { b.template.Extensions = certs.Extensions{} },
		"email":     func() { b.template.SAN = certs.SAN{Kind: certs.SANEmail, Value: "person@example.com"} },
		"no authority": func() {
			b.template.SAN = certs.SAN{Kind: certs.SANURI, Value: "arn:aws:iam::123456789012:role/build"}
		},
		"user name":   func() { b.template.SAN = certs.SAN{Kind: certs.SANUserName, Value: "pérson!example.com"} },
		"Ed25519 key": func() { b.template.PublicKey = spkiOf(t, ed.Public()) },
		"an hour":     func() { b.template.NotAfter = b.template.NotBefore.Add(time.Hour) },
		"one second":  func() { b.template.NotAfter = b.template.NotBefore.Add(time.Second) },
		"10m ago":     func() { b.template.NotBefore = b.now.Add(-maxAge) },
		"in 1m":       func() { b.template.NotBefore = b.now.Add(maxLead) },
		"leaf index":  func() { b.sct.Extensions = make([]byte, leafIndexExtension) },
		"year 2050": func() {
			b = benchOf(t, &Chain{Certificates: b.chain.Certificates, NotBefore: time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2051, 1, 1, 0, 0, 0, 0, time.UTC)})
		},
	} {
		original := *b
		change()
		if err := logged.Check(b.chain, b.certificate(t), b.now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		*b = original
	}
}

// Each change to the fields of a certificate is refused, whether or not certificates are logged.
func TestLeafPolicyRefusesTemplates(t *testing.T) {
	t.Parallel()
	day := func(b *policyBench, from, to time.Duration) {
		b.template.NotBefore, b.template.NotAfter = b.now.Add(from), b.now.Add(to)
	}
	for name, change := range map[string]func(*policyBench){
		"another issuer":           func(b *policyBench) { b.template.Issuer = b.chain.Certificates[1].RawSubject },
		"pre-dated":                func(b *policyBench) { day(b, -maxAge-time.Second, 0) },
		"post-dated":               func(b *policyBench) { day(b, maxLead+time.Second, maxLead+time.Minute) },
		"valid for 1h 1s":          func(b *policyBench) { day(b, 0, time.Hour+time.Second) },
		"before its chain":         func(b *policyBench) { b.now = b.chain.NotBefore; day(b, -time.Second, time.Minute) },
		"after its chain":          func(b *policyBench) { b.now = b.chain.NotAfter; day(b, -time.Second, time.Second) },
		"another AKI":              func(b *policyBench) { b.template.AuthorityKeyID = []byte{1, 2} },
		"two SCTs":                 func(b *policyBench) { b.scts = 2 },
		"an SCT with no signature": func(b *policyBench) { b.sct.Signature = nil },
		"an SCT that is huge":      func(b *policyBench) { b.sct.Signature = make([]byte, 4000) },
		"an SCT with extensions":   func(b *policyBench) { b.sct.Extensions = make([]byte, 100) },
	} {
		b := newPolicyBench(t)
		change(b)
		demandRefusal(t, b, name, b.certificate(t))
	}
}

// Each change to the encoding of a certificate is refused, whether or not certificates are logged.
func TestLeafPolicyRefusesEncodings(t *testing.T) {
	t.Parallel()
	b := newPolicyBench(t)
	for name, mutate := range map[string]func(*elements){
		"version 1":               func(e *elements) { e.fields[version], e.extensions = nil, nil },
		"version 2":               func(e *elements) { e.fields[version] = []byte{0xa0, 3, 2, 1, 1} },
		"version 4":               func(e *elements) { e.fields[version] = []byte{0xa0, 3, 2, 1, 3} },
		"serial of 7 octets":      func(e *elements) { e.fields[serial] = der(asn1.INTEGER, bytes.Repeat([]byte{1}, 7)) },
		"serial of 21 octets":     func(e *elements) { e.fields[serial] = der(asn1.INTEGER, bytes.Repeat([]byte{1}, 21)) },
		"serial with its top bit": func(e *elements) { e.fields[serial] = der(asn1.INTEGER, []byte{0}, bytes.Repeat([]byte{0xff}, 20)) },
		"serial that is negative": func(e *elements) { e.fields[serial] = der(asn1.INTEGER, bytes.Repeat([]byte{0x80}, 20)) },
		"serial that is zero":     func(e *elements) { e.fields[serial] = []byte{2, 1, 0} },
		"serial that is not DER":  func(e *elements) { e.fields[serial] = der(asn1.INTEGER, []byte{0, 0x70}, make([]byte, 18)) },
		"another algorithm":       func(e *elements) { e.fields[algorithm] = []byte("\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03") },
		"valid backwards": func(e *elements) {
			e.fields[validity] = der(asn1.SEQUENCE, e.fields[validity][17:], e.fields[validity][2:17])
		},
		"valid for no time": func(e *elements) {
			e.fields[validity] = der(asn1.SEQUENCE, e.fields[validity][2:17], e.fields[validity][2:17])
		},
		"a subject": func(e *elements) { e.fields[subject] = e.fields[issuer] },
		"a key of an unknown kind": func(e *elements) {
			e.fields[publicKey] = der(asn1.SEQUENCE, der(asn1.SEQUENCE, []byte{6, 1, 42}), []byte{3, 2, 0, 1})
		},
		"another key":            func(e *elements) { e.fields[publicKey] = spkiOf(t, newKey(t).Public()) },
		"an issuer unique ID":    func(e *elements) { e.fields = append(e.fields, []byte{0x81, 2, 0, 1}) },
		"a subject unique ID":    func(e *elements) { e.fields = append(e.fields, []byte{0x82, 2, 0, 1}) },
		"a field too many":       func(e *elements) { e.fields[algorithm] = append(e.fields[algorithm], 5, 0) },
		"no extensions":          func(e *elements) { e.extensions = nil },
		"no key usage":           func(e *elements) { e.drop(extKeyUsage) },
		"key usage certSign":     func(e *elements) { e.extensions[extKeyUsage] = ext(oidKeyUsage, true, 3, 2, 2, 0x84) },
		"key usage not critical": func(e *elements) { e.extensions[extKeyUsage] = ext(oidKeyUsage, false, 3, 2, 7, 0x80) },
		"key usage not DER":      func(e *elements) { e.extensions[extKeyUsage] = ext(oidKeyUsage, true, 3, 2, 0, 0x80) },
		"key usage twice":        func(e *elements) { e.insert(extExtKeyUsage, e.extensions[extKeyUsage]) },
		"no EKU":                 func(e *elements) { e.drop(extExtKeyUsage) },
		"EKU serverAuth":         func(e *elements) { e.extensions[extExtKeyUsage] = eku(1) },
		"EKU serverAuth as well": func(e *elements) { e.extensions[extExtKeyUsage] = eku(3, 1) },
		"EKU unknown as well":    func(e *elements) { e.extensions[extExtKeyUsage] = eku(3, 77) },
		"EKU critical":           func(e *elements) { e.extensions[extExtKeyUsage] = critical(e.extensions[extExtKeyUsage]) },
		"no SKI":                 func(e *elements) { e.drop(extSubjectKeyID) },
		"no AKI":                 func(e *elements) { e.drop(extAuthorityKeyID) },
		"basic constraints CA":   func(e *elements) { e.insert(extFirstClaim, ext(oidBasicConstraints, true, 0x30, 3, 1, 1, 0xff)) },
		"basic constraints":      func(e *elements) { e.insert(extFirstClaim, ext(oidBasicConstraints, true, 0x30, 0)) },
		"no SAN":                 func(e *elements) { e.drop(extSAN) },
		"SAN not critical":       func(e *elements) { e.extensions[extSAN] = ext(certs.OIDSubjectAltName, false, 0x30, 3, 0x81, 1, 'x') },
		"SAN of two names": func(e *elements) {
			e.extensions[extSAN] = ext(certs.OIDSubjectAltName, true, 0x30, 6, 0x81, 1, 'x', 0x81, 1, 'y')
		},
		"SAN of a DNS name": func(e *elements) { e.extensions[extSAN] = ext(certs.OIDSubjectAltName, true, 0x30, 3, 0x82, 1, 'x') },
		"an unknown claim": func(e *elements) {
			e.insert(len(e.extensions)-1, ext(append(slices.Clone(certs.OIDSigstore), 25), false, 12, 1, 'x'))
		},
		"a critical claim":     func(e *elements) { e.extensions[extFirstClaim] = critical(e.extensions[extFirstClaim]) },
		"claims out of order":  func(e *elements) { slices.Reverse(e.extensions[extFirstClaim : extFirstClaim+2]) },
		"an unknown extension": func(e *elements) { e.insert(0, ext(stdasn1.ObjectIdentifier{1, 2, 3}, false, 5, 0)) },
		"name constraints": func(e *elements) {
			e.insert(0, ext(stdasn1.ObjectIdentifier{2, 5, 29, 30}, true, 0x30, 5, 0xa0, 3, 0x30, 1, 0x82))
		},
		"standard out of order":    func(e *elements) { slices.Reverse(e.extensions[:2]) },
		"poison not critical":      func(e *elements) { e.setLast(ext(certs.OIDPoison, false, 5, 0)) },
		"poison not NULL":          func(e *elements) { e.setLast(ext(certs.OIDPoison, true, 4, 0)) },
		"poison not last":          func(e *elements) { e.insert(0, e.last()); e.drop(len(e.extensions) - 1) },
		"both poison and SCT list": func(e *elements) { e.insert(len(e.extensions)-1, ext(certs.OIDPoison, true, 5, 0)) },
		"SCT list critical":        func(e *elements) { e.setLast(critical(e.last())) },
		"SCT list not last":        func(e *elements) { e.insert(0, e.last()); e.drop(len(e.extensions) - 1) },
		"SCT list of octets":       func(e *elements) { e.setLast(ext(certs.OIDSCTList, false, 12, 1, 1)) },
		"SCT list of nothing":      func(e *elements) { e.setLast(ext(certs.OIDSCTList, false, 4, 2, 0, 0)) },
		"SCT list of garbage":      func(e *elements) { e.setLast(ext(certs.OIDSCTList, false, 4, 5, 0, 3, 0, 1, 0)) },
	} {
		tbs := b.certificate(t)
		if strings.HasPrefix(name, "poison ") {
			tbs = b.precertificate(t)
		}
		e := split(t, tbs)
		mutate(e)
		demandRefusal(t, b, name, e.join())
	}
	if err := newPolicy(t, false).Check(b.chain, b.unlogged(t), b.now); err == nil {
		t.Error("a certificate that is not logged passes")
	}
}

func demandRefusal(t *testing.T, b *policyBench, name string, message []byte) {
	t.Helper()
	for _, unlogged := range []bool{false, true} {
		if err := newPolicy(t, unlogged).Check(b.chain, message, b.now); err == nil {
			t.Errorf("%s passes (unlogged %t)", name, unlogged)
		}
	}
}

// A name outside the name constraints of the chain is refused, whatever the server has checked.
func TestLeafPolicyEnforcesNameConstraints(t *testing.T) {
	t.Parallel()
	builder := newChainBuilder(t)
	builder.root.PermittedURIDomains = []string{"github.com"}
	b := benchOf(t, parsed(t, builder))
	p := newPolicy(t, false)
	if err := p.Check(b.chain, b.precertificate(t), b.now); err != nil {
		t.Error(err)
	}
	b.template.SAN = uri("https://elsewhere.example/x")
	for name, tbs := range map[string][]byte{"precertificate": b.precertificate(t), "certificate": b.certificate(t)} {
		if err := p.Check(b.chain, tbs, b.now); err == nil || !strings.Contains(err.Error(), `permit only ["github.com"]`) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}

// Other things that a CA's key could be asked to sign.
func TestLeafPolicyRefusesOtherThings(t *testing.T) {
	t.Parallel()
	builder := newChainBuilder(t)
	chain, err := ParseChain(builder.make(t))
	if err != nil {
		t.Fatal(err)
	}
	b, issuing := benchOf(t, chain), chain.Certificates[0]
	made := func(template *x509.Certificate) []byte {
		template.SerialNumber = new(big.Int).SetBytes(b.template.SerialNumber)
		template.NotBefore, template.NotAfter = b.template.NotBefore, b.template.NotAfter
		out, err := x509.CreateCertificate(rand.Reader, template, issuing, newKey(t).Public(), builder.issuingKey)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(out)
		if err != nil {
			t.Fatal(err)
		}
		return c.RawTBSCertificate
	}
	crlDER, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: b.now, NextUpdate: b.now.Add(time.Hour)}, crlIssuer(issuing), builder.issuingKey)
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(crlDER)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	random := make([]byte, 1500)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	good := b.certificate(t)
	for name, message := range map[string][]byte{
		"a CA certificate":         made(&x509.Certificate{Subject: pkix.Name{CommonName: "evil"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}),
		"a TLS certificate":        made(&x509.Certificate{DNSNames: []string{"evil.example"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}),
		"a code signing leaf":      made(&x509.Certificate{EmailAddresses: []string{"a@example.com"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}),
		"its own certificate":      issuing.RawTBSCertificate,
		"a revocation list":        crl.RawTBSRevocationList,
		"a certificate request":    csr,
		"an OCSP response":         der(asn1.SEQUENCE, der(asn1.Tag(2).ContextSpecific().Constructed(), []byte{4, 1, 1}), []byte("\x18\x0f20260101010000Z"), der(asn1.SEQUENCE)),
		"nothing":                  nil,
		"an empty sequence":        {0x30, 0},
		"random octets":            random,
		"a JWS":                    []byte("eyJhbGciOiJFUzI1NiJ9.e30"),
		"almost a self-test":       []byte(signer.SelfTestMessage + " "),
		"a whole certificate":      certs.Assemble(good, b.template.SignatureAlgorithm, []byte{1}),
		"octets behind it":         append(slices.Clone(good), 0),
		"a certificate's contents": slices.Concat(good, b.template.SignatureAlgorithm.Identifier(), []byte{3, 2, 0, 1}),
		"half of it":               good[:len(good)/2],
		"an indefinite length":     slices.Concat([]byte{0x30, 0x80}, good[4:], []byte{0, 0}),
	} {
		demandRefusal(t, b, name, message)
	}
}

// crlIssuer is c with the fields that crypto/x509 requires to create a revocation list.
func crlIssuer(c *x509.Certificate) *x509.Certificate {
	issuer := *c
	issuer.KeyUsage |= x509.KeyUsageCRLSign
	return &issuer
}

// Keys that crypto/x509 reads, but that our servers do not certify or encode in this form.
func TestLeafPolicyRefusesKeys(t *testing.T) {
	t.Parallel()
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec := spkiOf(t, newKey(t).Public())
	point := ec[len(ec)-68:] // the BIT STRING
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	n := private.N
	rsaKey, small, cube := spkiOf(t, private.Public()), spkiOf(t, &rsa.PublicKey{N: new(big.Int).Rsh(n, 1024), E: private.E}), spkiOf(t, &rsa.PublicKey{N: n, E: 3})
	ecWith := func(behind ...byte) []byte {
		return der(asn1.SEQUENCE, der(asn1.SEQUENCE, []byte("\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"), behind), point)
	}
	rsaWith := func(within, behind []byte) []byte {
		integers := rsaKey[len(rsaKey)-(4+257+5):]
		return der(asn1.SEQUENCE, der(asn1.SEQUENCE, []byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00")),
			der(asn1.BIT_STRING, []byte{0}, der(asn1.SEQUENCE, integers, within), behind))
	}
	if !bytes.Equal(ecWith(), ec) || !bytes.Equal(rsaWith(nil, nil), rsaKey) {
		t.Fatal("the test does not encode keys as crypto/x509 does")
	}
	for name, spki := range map[string][]byte{
		"P-256 with NULL":                     ecWith(5, 0),
		"P-256 with octets that are no DER":   ecWith(0xff, 0xff, 0x30),
		"octets behind RSA's integers":        rsaWith([]byte{5, 0}, nil),
		"octets behind RSA's key":             rsaWith(nil, []byte{5, 0}),
		"P-224":                               spkiOf(t, p224.Public()),
		"X25519":                              spkiOf(t, x25519.Public()),
		"RSA of 1024 bits":                    small,
		"RSA with the exponent 3":             cube,
		"Ed25519, a point that has order two": spkiOf(t, ed25519.PublicKey(append([]byte{0xec}, append(bytes.Repeat([]byte{0xff}, 30), 0x7f)...))),
	} {
		b := newPolicyBench(t)
		b.template.PublicKey = spki
		demandRefusal(t, b, name, b.certificate(t))
	}
}

// Whichever octet of a certificate is changed, what still passes is a certificate of the profile.
func TestLeafPolicyAgainstEveryOctet(t *testing.T) {
	t.Parallel()
	b, p := newPolicyBench(t), newPolicy(t, false)
	for _, good := range [][]byte{b.precertificate(t), b.certificate(t)} {
		for i := range good {
			for _, flip := range []byte{0x01, 0x80, 0xff} {
				changed := slices.Clone(good)
				changed[i] ^= flip
				if p.Check(b.chain, changed, b.now) == nil {
					demandLeaf(t, b, changed)
				}
			}
		}
	}
}

// demandLeaf checks, with the standard library alone, what a verifier sees in a TBS that passed.
func demandLeaf(t *testing.T, b *policyBench, tbs []byte) {
	t.Helper()
	c, err := x509.ParseCertificate(certs.Assemble(tbs, b.template.SignatureAlgorithm, nil))
	if err != nil {
		t.Fatalf("what passes does not parse: %v", err)
	}
	names := len(c.EmailAddresses) + len(c.URIs)
	if names > 1 || len(c.DNSNames)+len(c.IPAddresses) > 0 || c.IsCA || c.BasicConstraintsValid || c.KeyUsage != x509.KeyUsageDigitalSignature ||
		len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageCodeSigning || len(c.UnknownExtKeyUsage) > 0 ||
		c.NotAfter.Sub(c.NotBefore) > time.Hour || c.NotAfter.After(b.now.Add(time.Hour+time.Minute)) ||
		!bytes.Equal(c.RawSubjectPublicKeyInfo, spkiOf(t, c.PublicKey)) ||
		!bytes.Equal(c.RawIssuer, b.chain.Certificates[0].RawSubject) || len(c.Subject.Names) > 0 || !bytes.Equal(c.RawTBSCertificate, tbs) {
		t.Fatalf("what passes is no leaf of the profile: %x", tbs)
	}
}

// fixedBench has the same keys in every process, so that fuzzing processes agree on what passes,
// and a finding can be reproduced later.
func fixedBench(t testing.TB) *policyBench {
	t.Helper()
	key := func(seed byte) ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	}
	builder := newChainBuilder(t)
	builder.rootKey, builder.upperKey, builder.issuingKey = key(1), key(2), key(3)
	chain, err := ParseChain(builder.make(t))
	if err != nil {
		t.Fatal(err)
	}
	b := benchOf(t, chain)
	b.template.PublicKey = spkiOf(t, key(4).Public())
	b.template.Extensions = certs.Extensions{certs.IssuerV1: "https://a.example", certs.IssuerV2: "https://a.example"}
	return b
}

func FuzzLeafPolicy(f *testing.F) {
	b := fixedBench(f)
	policies := []*LeafPolicy{newPolicy(f, false), newPolicy(f, true)}
	for _, seed := range [][]byte{b.precertificate(f), b.certificate(f), b.unlogged(f), b.chain.Certificates[0].RawTBSCertificate, {0x30, 0}, nil} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, tbs []byte) {
		if string(tbs) == signer.SelfTestMessage {
			return
		}
		for _, p := range policies {
			if p.Check(b.chain, tbs, b.now) == nil {
				demandLeaf(t, b, tbs)
			}
		}
	})
}
