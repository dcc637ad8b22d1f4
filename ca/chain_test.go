// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// chainBuilder creates a root, an upper intermediate and an issuing CA; a test changes one field
// and calls make.
type chainBuilder struct {
	root, upper, issuing          *x509.Certificate
	rootKey, upperKey, issuingKey crypto.Signer
	// order is the certificates that make returns: i(ssuing), u(pper), r(oot); f is issuing, signed with
	// another key than upper's.
	order string
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
}

func newChainBuilder(t testing.TB) *chainBuilder {
	t.Helper()
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	template := func(name string, years int) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber:          big.NewInt(int64(years)),
			Subject:               pkix.Name{CommonName: name, Organization: []string{"mayfly test"}},
			NotBefore:             begin,
			NotAfter:              begin.AddDate(years, 0, 0),
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
			BasicConstraintsValid: true,
			IsCA:                  true,
		}
	}
	b := &chainBuilder{
		root: template("root", 10), upper: template("upper", 5), issuing: template("issuing", 3),
		rootKey: newKey(t), upperKey: newKey(t), issuingKey: newKey(t),
		order: "iur",
	}
	b.upper.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	b.issuing.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	b.issuing.MaxPathLenZero = true
	return b
}

// make returns the certificates in b.order, as PEM.
func (b *chainBuilder) make(t testing.TB) []byte { return must(b.tryMake())(t) }

func (b *chainBuilder) tryMake() ([]byte, error) {
	made := map[rune]*x509.Certificate{'0': b.root, '1': b.upper}
	for _, one := range []struct {
		which, parent rune
		template      *x509.Certificate
		public        crypto.Signer
		key           crypto.Signer
	}{{'r', '0', b.root, b.rootKey, b.rootKey}, {'u', 'r', b.upper, b.upperKey, b.rootKey}, {'i', 'u', b.issuing, b.issuingKey, b.upperKey}, {'f', '1', b.issuing, b.issuingKey, b.issuingKey}} {
		der, err := x509.CreateCertificate(rand.Reader, one.template, made[one.parent], one.public.Public(), one.key)
		if err != nil {
			return nil, err
		}
		if made[one.which], err = x509.ParseCertificate(der); err != nil {
			return nil, err
		}
	}
	var out bytes.Buffer
	for _, which := range b.order {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: made[which].Raw}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

func TestParseChain(t *testing.T) {
	t.Parallel()
	b := newChainBuilder(t)
	data := b.make(t)
	chain := must(ParseChain(data))(t)
	if got := len(chain.Certificates); got != 3 || chain.Certificates[0].Subject.CommonName != "issuing" {
		t.Errorf("got %d certificates, the first one %s", got, chain.Certificates[0].Subject)
	}
	var listed []string
	if err := json.Unmarshal([]byte(`["`+chain.JSON+`"]`), &listed); err != nil || !slices.Equal(listed, chain.PEM) {
		t.Errorf("JSON is %s, %v; want %q", chain.JSON, err, chain.PEM)
	}
	if got := strings.Join(chain.PEM, "\n") + "\n"; got != string(data) {
		t.Errorf("the chain's PEM is\n%s\nwant\n%s", got, data)
	}
	if !chain.NotAfter.Equal(b.issuing.NotAfter) {
		t.Errorf("the chain ends at %s, want %s", chain.NotAfter, b.issuing.NotAfter)
	}
}

func TestParseChainRefuses(t *testing.T) {
	t.Parallel()
	weak, p224 := must(rsa.GenerateKey(rand.Reader, 1024))(t), must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))(t)
	for name, test := range map[string]struct {
		change func(*chainBuilder)
		want   string
	}{
		"wrong order":                 {func(b *chainBuilder) { b.order = "rui" }, "the order is issuing CA first, root last"},
		"root missing":                {func(b *chainBuilder) { b.order = "iu" }, "must end in its root"},
		"intermediate missing":        {func(b *chainBuilder) { b.order = "ir" }, "the order is issuing CA first"},
		"root alone is twice there":   {func(b *chainBuilder) { b.order = "iurr" }, "authority key identifier"},
		"forged":                      {func(b *chainBuilder) { b.order = "fur" }, "is not signed by the next one"},
		"nothing":                     {func(b *chainBuilder) { b.order = "" }, "holds no PEM certificate"},
		"too many":                    {func(b *chainBuilder) { b.order = strings.Repeat("r", 9) }, "more than 8"},
		"issuing is no CA":            {func(b *chainBuilder) { b.issuing.IsCA, b.issuing.MaxPathLenZero = false, false }, "certificate 1 of the chain (CN=issuing,O=mayfly test) is no CA"},
		"root is no CA":               {func(b *chainBuilder) { b.root.IsCA = false }, "certificate 3 of the chain (CN=root,O=mayfly test) is no CA"},
		"issuing without certSign":    {func(b *chainBuilder) { b.issuing.KeyUsage = x509.KeyUsageCRLSign }, "no key usage keyCertSign"},
		"root without key usage":      {func(b *chainBuilder) { b.root.KeyUsage = 0 }, "no key usage keyCertSign"},
		"path too long":               {func(b *chainBuilder) { b.upper.MaxPathLenZero = true }, "allows 0 CA certificates below it"},
		"issuing without EKU":         {func(b *chainBuilder) { b.issuing.ExtKeyUsage = nil }, "no extended key usage codeSigning"},
		"upper with another EKU":      {func(b *chainBuilder) { b.upper.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "nothing below it may sign code"},
		"issuing outlives upper":      {func(b *chainBuilder) { b.issuing.NotAfter = b.upper.NotAfter.Add(time.Second) }, "outside the validity"},
		"issuing begins before upper": {func(b *chainBuilder) { b.issuing.NotBefore = b.upper.NotBefore.Add(-time.Second) }, "outside the validity"},
		"weak RSA key":                {func(b *chainBuilder) { b.issuingKey = weak }, "RSA key of less than 2048 bits"},
		"P-224":                       {func(b *chainBuilder) { b.issuingKey = p224 }, "ECDSA key on a curve other than"},
		"issuing without a name":      {func(b *chainBuilder) { b.issuing.Subject = pkix.Name{} }, "has an empty subject"},
		"signed with SHA-1":           {func(b *chainBuilder) { b.issuing.SignatureAlgorithm = x509.ECDSAWithSHA1 }, "signed with ECDSA-SHA1, which verifiers refuse"},
		// crypto/x509 adds the identifier unless the extension is given.
		"issuing without SKI": {func(b *chainBuilder) {
			b.issuing.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 14}, Value: []byte{4, 0}}}
		}, "no subject key identifier"},
		"other AKI": {func(b *chainBuilder) {
			// crypto/x509 uses the parent's key identifier unless the extension is given.
			b.issuing.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 35}, Value: []byte{0x30, 0x04, 0x80, 0x02, 1, 2}}}
		}, "authority key identifier"},
		"AKI with an earlier root's serial number": {func(b *chainBuilder) {
			b.root.SubjectKeyId = []byte{1, 2}
			b.upper.ExtraExtensions = []pkix.Extension{authorityKeyID(t, b.root.Subject, 77)}
		}, "certificate 2 of the chain (CN=upper,O=mayfly test) has an authority key identifier with the issuer or serial number of another"},
		"AKI with another issuer": {func(b *chainBuilder) {
			b.root.SubjectKeyId = []byte{1, 2}
			b.upper.ExtraExtensions = []pkix.Extension{authorityKeyID(t, pkix.Name{CommonName: "former root"}, 10)}
		}, "issuer or serial number of another"},
		"AKI of an earlier root on the root": {func(b *chainBuilder) {
			b.root.SubjectKeyId = []byte{1, 2}
			b.root.ExtraExtensions = []pkix.Extension{authorityKeyID(t, b.root.Subject, 77)}
		}, "certificate 3 of the chain (CN=root,O=mayfly test) has an authority key identifier with the issuer or serial number of another"},
		"basic constraints of the root not critical": {func(b *chainBuilder) {
			b.root.ExtraExtensions = []pkix.Extension{extensionOf(false, "\x30\x03\x01\x01\xff", 2, 5, 29, 19)}
		}, "certificate 3 of the chain (CN=root,O=mayfly test) has basic constraints that are not critical"},
		"name constraints with a minimum": {func(b *chainBuilder) {
			constrain(b.issuing, true, []base{{tagEmail, "corp.example", "\x80\x01\x01"}}, nil)
		}, "without minimum and maximum"},
		"name constraints with a maximum": {func(b *chainBuilder) {
			constrain(b.root, true, nil, []base{{tagEmail, "corp.example", "\x81\x01\x02"}})
		}, "without minimum and maximum"},
		"name constraints for user names": {func(b *chainBuilder) {
			constrain(b.upper, false, nil, []base{{tag: tagOther, value: userNameBase}})
		}, "tag [0]"},
		"name constraints for directory names": {func(b *chainBuilder) {
			constrain(b.upper, true, []base{{tag: tagDirectory, value: directoryName(t, b.root.Subject)}}, nil)
		}, "tag [4]"},
		"unknown critical extension": {func(b *chainBuilder) {
			b.issuing.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}, "critical extension that verifiers do not know"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newChainBuilder(t)
			test.change(b)
			_, err := ParseChain(b.make(t))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one that says %q", err, test.want)
			}
		})
	}
}

// authorityKeyID is the extension with the key identifier 0102, and an issuer and serial number.
func authorityKeyID(t *testing.T, issuer pkix.Name, serial byte) pkix.Extension {
	t.Helper()
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes([]byte("\x80\x02\x01\x02"))
		b.AddASN1(asn1.Tag(1).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(tagDirectory, func(b *cryptobyte.Builder) { b.AddBytes([]byte(directoryName(t, issuer))) })
		})
		b.AddBytes([]byte{0x82, 1, serial})
	})
	return pkix.Extension{Id: oidAuthorityKeyID, Value: b.BytesOrPanic()}
}

// The issuer and serial number of an authority key identifier must be those of the parent, as
// OpenSSL compares them. The root's own identifier is checked too.
func TestParseChainWithIssuerAndSerialNumber(t *testing.T) {
	t.Parallel()
	b := newChainBuilder(t)
	b.root.SubjectKeyId = []byte{1, 2}
	whole := authorityKeyID(t, b.root.Subject, 10)
	// The same without the key identifier, which an intermediate needs.
	short := whole
	short.Value = append([]byte{0x30, whole.Value[1] - 4}, whole.Value[6:]...)
	b.upper.ExtraExtensions = []pkix.Extension{whole}
	for _, of := range []pkix.Extension{whole, short} {
		b.root.ExtraExtensions = []pkix.Extension{of}
		if err := verifyBoth(t, b, parsed(t, b), uri("https://a.example/")); err != nil {
			t.Error(err)
		}
	}
}

func TestParseChainTellsEveryMistake(t *testing.T) {
	t.Parallel()
	b := newChainBuilder(t)
	b.issuing.ExtKeyUsage, b.root.KeyUsage, b.upper.MaxPathLenZero = nil, 0, true
	_, err := ParseChain(b.make(t))
	for _, want := range []string{"codeSigning", "keyCertSign", "allows 0 CA"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}
