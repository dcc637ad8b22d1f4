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
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

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
	for name, change := range map[string]func(){
		"no claims": func() { b.template.Extensions = certs.Extensions{} },
		"email":     func() { b.template.SAN = certs.SAN{Kind: certs.SANEmail, Value: "person@example.com"} },
		"no authority": func() {
			b.template.SAN = certs.SAN{Kind: certs.SANURI, Value: "arn:aws:iam::123456789012:role/build"}
		},
		"user name":   func() { b.template.SAN = certs.SAN{Kind: certs.SANUserName, Value: "pérson!example.com"} },
		"Ed25519 key": func() { b.template.PublicKey = spkiOf(t, ed25519.NewKeyFromSeed(make([]byte, 32)).Public()) },
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

// fields is a TBSCertificate for encoding/asn1, so that tests can change one field of it at a time.
type fields struct {
	Version         int `asn1:"optional,explicit,default:0,tag:0"`
	Serial          asn1.RawValue
	Algorithm       asn1.RawValue
	Issuer          asn1.RawValue
	Validity        asn1.RawValue
	Subject         asn1.RawValue
	PublicKey       asn1.RawValue
	IssuerUniqueID  asn1.BitString   `asn1:"optional,tag:1"`
	SubjectUniqueID asn1.BitString   `asn1:"optional,tag:2"`
	Extensions      []pkix.Extension `asn1:"omitempty,optional,explicit,tag:3"`
}

func raw(element string) asn1.RawValue { return asn1.RawValue{FullBytes: []byte(element)} }

func integer(contents ...byte) asn1.RawValue {
	return asn1.RawValue{Tag: asn1.TagInteger, Bytes: contents}
}

// The profile's extensions in their order; the last one is poison or SCT list.
const (
	extKeyUsage = iota
	extExtKeyUsage
	extSubjectKeyID
	extAuthorityKeyID
	extSAN
	extFirstClaim
)

func (f *fields) set(i int, value string) { f.Extensions[i].Value = []byte(value) }
func (f *fields) drop(i int)              { f.Extensions = slices.Delete(f.Extensions, i, i+1) }
func (f *fields) flip(i int)              { f.Extensions[i].Critical = !f.Extensions[i].Critical }
func (f *fields) last() int               { return len(f.Extensions) - 1 }

func (f *fields) insert(i int, e pkix.Extension) { f.Extensions = slices.Insert(f.Extensions, i, e) }

func extensionOf(critical bool, value string, id ...int) pkix.Extension {
	return pkix.Extension{Id: id, Critical: critical, Value: []byte(value)}
}

// Each change to the encoding of a certificate is refused, whether or not certificates are logged.
func TestLeafPolicyRefusesEncodings(t *testing.T) {
	t.Parallel()
	b := newPolicyBench(t)
	const codeSigning, serverAuth = "\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x03", "\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01"
	unique := asn1.BitString{Bytes: []byte{1}, BitLength: 8}
	for name, mutate := range map[string]func(*fields){
		"version 1":               func(f *fields) { f.Version, f.Extensions = 0, nil },
		"version 2":               func(f *fields) { f.Version = 1 },
		"serial of 7 octets":      func(f *fields) { f.Serial = integer(1, 2, 3, 4, 5, 6, 7) },
		"serial of 21 octets":     func(f *fields) { f.Serial = integer(bytes.Repeat([]byte{1}, 21)...) },
		"serial with its top bit": func(f *fields) { f.Serial = integer(append([]byte{0}, bytes.Repeat([]byte{0xff}, 20)...)...) },
		"serial that is negative": func(f *fields) { f.Serial = integer(bytes.Repeat([]byte{0x80}, 20)...) },
		"serial that is zero":     func(f *fields) { f.Serial = integer(0) },
		"serial that is not DER":  func(f *fields) { f.Serial = integer(append([]byte{0, 0x70}, make([]byte, 18)...)...) },
		"another algorithm":       func(f *fields) { f.Algorithm = raw("\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03") },
		"valid for no time": func(f *fields) {
			begin := f.Validity.FullBytes[2:17]
			f.Validity = asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: slices.Concat(begin, begin)}
		},
		"a subject":                func(f *fields) { f.Subject = f.Issuer },
		"a key of an unknown kind": func(f *fields) { f.PublicKey = raw("\x30\x09\x30\x03\x06\x01\x2a\x03\x02\x00\x01") },
		"another key":              func(f *fields) { f.PublicKey = raw(string(spkiOf(t, newKey(t).Public()))) },
		"an issuer unique ID":      func(f *fields) { f.IssuerUniqueID = unique },
		"a subject unique ID":      func(f *fields) { f.SubjectUniqueID = unique },
		"no extensions":            func(f *fields) { f.Extensions = nil },
		"no key usage":             func(f *fields) { f.drop(extKeyUsage) },
		"key usage certSign":       func(f *fields) { f.set(extKeyUsage, "\x03\x02\x02\x84") },
		"key usage not critical":   func(f *fields) { f.flip(extKeyUsage) },
		"key usage not DER":        func(f *fields) { f.set(extKeyUsage, "\x03\x02\x00\x80") },
		"key usage twice":          func(f *fields) { f.insert(extExtKeyUsage, f.Extensions[extKeyUsage]) },
		"no EKU":                   func(f *fields) { f.drop(extExtKeyUsage) },
		"EKU serverAuth":           func(f *fields) { f.set(extExtKeyUsage, "\x30\x0a"+serverAuth) },
		"EKU serverAuth as well":   func(f *fields) { f.set(extExtKeyUsage, "\x30\x14"+codeSigning+serverAuth) },
		"EKU critical":             func(f *fields) { f.flip(extExtKeyUsage) },
		"no SKI":                   func(f *fields) { f.drop(extSubjectKeyID) },
		"no AKI":                   func(f *fields) { f.drop(extAuthorityKeyID) },
		"basic constraints CA":     func(f *fields) { f.insert(extFirstClaim, extensionOf(true, "\x30\x03\x01\x01\xff", 2, 5, 29, 19)) },
		"basic constraints":        func(f *fields) { f.insert(extFirstClaim, extensionOf(true, "\x30\x00", 2, 5, 29, 19)) },
		"no SAN":                   func(f *fields) { f.drop(extSAN) },
		"SAN not critical":         func(f *fields) { f.flip(extSAN) },
		"SAN of two names":         func(f *fields) { f.set(extSAN, "\x30\x06\x81\x01x\x81\x01y") },
		"SAN of a DNS name":        func(f *fields) { f.set(extSAN, "\x30\x03\x82\x01x") },
		"an unknown claim": func(f *fields) {
			f.insert(f.last(), extensionOf(false, "\x0c\x01x", append(slices.Clone(certs.OIDSigstore), 25)...))
		},
		"a critical claim":         func(f *fields) { f.flip(extFirstClaim) },
		"claims out of order":      func(f *fields) { slices.Reverse(f.Extensions[extFirstClaim : extFirstClaim+2]) },
		"an unknown extension":     func(f *fields) { f.insert(0, extensionOf(false, "\x05\x00", 1, 2, 3)) },
		"name constraints":         func(f *fields) { f.insert(0, extensionOf(true, "\x30\x05\xa0\x03\x30\x01\x82", 2, 5, 29, 30)) },
		"standard out of order":    func(f *fields) { slices.Reverse(f.Extensions[:2]) },
		"poison not critical":      func(f *fields) { f.flip(f.last()) },
		"poison not NULL":          func(f *fields) { f.set(f.last(), "\x04\x00") },
		"poison not last":          func(f *fields) { f.insert(0, f.Extensions[f.last()]); f.drop(f.last()) },
		"both poison and SCT list": func(f *fields) { f.insert(f.last(), extensionOf(true, "\x05\x00", certs.OIDPoison...)) },
		"SCT list critical":        func(f *fields) { f.flip(f.last()) },
		"SCT list not last":        func(f *fields) { f.insert(0, f.Extensions[f.last()]); f.drop(f.last()) },
		"SCT list of octets":       func(f *fields) { f.set(f.last(), "\x0c\x01\x01") },
		"SCT list of nothing":      func(f *fields) { f.set(f.last(), "\x04\x02\x00\x00") },
		"SCT list of garbage":      func(f *fields) { f.set(f.last(), "\x04\x05\x00\x03\x00\x01\x00") },
	} {
		tbs := b.certificate(t)
		if strings.HasPrefix(name, "poison ") {
			tbs = b.precertificate(t)
		}
		var f fields
		must(asn1.Unmarshal(tbs, &f))(t)
		if !bytes.Equal(must(asn1.Marshal(f))(t), tbs) {
			t.Fatal("decoding and encoding changes a certificate")
		}
		mutate(&f)
		demandRefusal(t, b, name, must(asn1.Marshal(f))(t))
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
	b := benchOf(t, parsed(t, builder))
	issuing := *b.chain.Certificates[0]
	created := func(template *x509.Certificate) []byte {
		template.SerialNumber = new(big.Int).SetBytes(b.template.SerialNumber)
		template.NotBefore, template.NotAfter = b.template.NotBefore, b.template.NotAfter
		der := must(x509.CreateCertificate(rand.Reader, template, &issuing, newKey(t).Public(), builder.issuingKey))(t)
		return must(x509.ParseCertificate(der))(t).RawTBSCertificate
	}
	issuing.KeyUsage |= x509.KeyUsageCRLSign // crypto/x509 requires it
	crl := must(x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: b.now, NextUpdate: b.now.Add(time.Hour)}, &issuing, builder.issuingKey))(t)
	good := b.certificate(t)
	for name, message := range map[string][]byte{
		"a CA certificate": created(&x509.Certificate{Subject: pkix.Name{CommonName: "evil"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}),
		"a code signing leaf": created(&x509.Certificate{EmailAddresses: []string{"a@example.com"}, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}),
		"its own certificate":      issuing.RawTBSCertificate,
		"a revocation list":        must(x509.ParseRevocationList(crl))(t).RawTBSRevocationList,
		"a certificate request":    must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, newKey(t)))(t),
		"nothing":                  nil,
		"a JWS":                    []byte("eyJhbGciOiJFUzI1NiJ9.e30"),
		"almost a self-test":       []byte(signer.SelfTestMessage + " "),
		"a whole certificate":      certs.Assemble(good, b.template.SignatureAlgorithm, []byte{1}),
		"octets behind it":         append(slices.Clone(good), 0),
		"a certificate's contents": slices.Concat(good, b.template.SignatureAlgorithm.Identifier(), []byte{3, 2, 0, 1}),
		"an indefinite length":     slices.Concat([]byte{0x30, 0x80}, good[4:], []byte{0, 0}),
	} {
		demandRefusal(t, b, name, message)
	}
}

// Keys that crypto/x509 reads, but that our servers do not certify or encode in this form.
func TestLeafPolicyRefusesKeys(t *testing.T) {
	t.Parallel()
	sequence := func(contents ...[]byte) []byte {
		return must(asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: slices.Concat(contents...)}))(t)
	}
	ec := spkiOf(t, newKey(t).Public())
	ecWith := func(behind ...byte) []byte { // parameters, and then the point, a BIT STRING
		return sequence(sequence([]byte("\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"), behind), ec[len(ec)-68:])
	}
	private := must(rsa.GenerateKey(rand.Reader, 2048))(t)
	rsaKey := spkiOf(t, private.Public())
	rsaWith := func(within, behind []byte) []byte {
		key := slices.Concat(sequence(rsaKey[len(rsaKey)-(4+257+5):], within), behind)
		return sequence(sequence([]byte("\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00")), must(asn1.Marshal(asn1.BitString{Bytes: key, BitLength: 8 * len(key)}))(t))
	}
	if !bytes.Equal(ecWith(), ec) || !bytes.Equal(rsaWith(nil, nil), rsaKey) {
		t.Fatal("the test does not encode keys as crypto/x509 does")
	}
	for name, spki := range map[string][]byte{
		"P-256 with NULL":                     ecWith(5, 0),
		"P-256 with octets that are no DER":   ecWith(0xff, 0xff, 0x30),
		"octets behind RSA's integers":        rsaWith([]byte{5, 0}, nil),
		"octets behind RSA's key":             rsaWith(nil, []byte{5, 0}),
		"P-224":                               spkiOf(t, must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))(t).Public()),
		"X25519":                              spkiOf(t, must(ecdh.X25519().GenerateKey(rand.Reader))(t).Public()),
		"RSA of 1024 bits":                    spkiOf(t, &rsa.PublicKey{N: new(big.Int).Rsh(private.N, 1024), E: private.E}),
		"RSA with the exponent 3":             spkiOf(t, &rsa.PublicKey{N: private.N, E: 3}),
		"Ed25519, a point that has order two": spkiOf(t, ed25519.PublicKey("\xec"+strings.Repeat("\xff", 30)+"\x7f")),
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
	b := benchOf(t, parsed(t, builder))
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
