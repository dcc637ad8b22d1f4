// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// x509TBS is the TBS that crypto/x509 creates from template; last is its last extension, or nil.
func x509TBS(t *testing.T, ca *authority, template Template, last *pkix.Extension) []byte {
	t.Helper()
	key := must(x509.ParsePKIXPublicKey(template.PublicKey))(t)
	c := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(template.SerialNumber),
		NotBefore:    template.NotBefore, NotAfter: template.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		SubjectKeyId: must(SubjectKeyID(template.PublicKey))(t),
	}
	switch template.SAN.Kind {
	case SANEmail:
		c.EmailAddresses = []string{template.SAN.Value}
	case SANURI:
		c.URIs = []*url.URL{must(url.Parse(template.SAN.Value))(t)}
	case SANUserName:
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: OIDSubjectAltName, Critical: true, Value: otherName(t, template.SAN.Value)})
	}
	for extension, text := range template.Extensions.All() {
		value := []byte(text)
		if !extension.Arc.Raw() {
			value = must(asn1.MarshalWithParams(text, "utf8"))(t)
		}
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: append(slices.Clone(OIDSigstore), int(extension.Arc)), Value: value})
	}
	if last != nil {
		c.ExtraExtensions = append(c.ExtraExtensions, *last)
	}
	der := must(x509.CreateCertificate(rand.Reader, c, ca.cert, key, ca.key))(t)
	return must(x509.ParseCertificate(der))(t).RawTBSCertificate
}

// otherName encodes the SAN's value with encoding/asn1.
func otherName(t *testing.T, text string) []byte {
	t.Helper()
	name := must(asn1.MarshalWithParams(struct {
		ID    asn1.ObjectIdentifier
		Value string `asn1:"utf8,explicit,tag:0"`
	}{OIDUserName, text}, "tag:0"))(t)
	return must(asn1.Marshal([]asn1.RawValue{{FullBytes: name}}))(t)
}

// TestTBSIsWhatX509Writes: an independent encoder gives the same bytes for each shape.
func TestTBSIsWhatX509Writes(t *testing.T) {
	t.Parallel()
	list, rsaKey := must(asn1.Marshal(sctList))(t), must(rsa.GenerateKey(rand.Reader, 2048))(t)
	for _, key := range []crypto.Signer{ecdsaKey(t, elliptic.P256()), ecdsaKey(t, elliptic.P384()), ecdsaKey(t, elliptic.P521()), rsaKey, ed25519Key(t)} {
		ca := authorityWith(t, key)
		for name, change := range map[string]func(*Template){
			"full":             func(*Template) {},
			"no extensions":    func(t *Template) { t.Extensions = Extensions{} },
			"email":            func(t *Template) { t.SAN = SAN{SANEmail, "alice@example.com"} },
			"user name":        func(t *Template) { t.SAN = SAN{SANUserName, "älice!example.com"} },
			"long user name":   func(t *Template) { t.SAN = SAN{SANUserName, strings.Repeat("a", 1000) + "!example.com"} },
			"until 2049":       func(t *Template) { t.NotAfter = time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC) },
			"across 2050":      func(t *Template) { t.NotAfter = time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC) },
			"another zone":     func(t *Template) { t.NotBefore = t.NotBefore.In(time.FixedZone("", 5*3600+1800)) },
			"large extensions": func(t *Template) { t.Extensions[BuildConfigURI] = strings.Repeat("x", 70_000) },
			"RSA leaf":         func(template *Template) { template.PublicKey = must(x509.MarshalPKIXPublicKey(rsaKey.Public()))(t) },
		} {
			t.Run(ca.alg.String()+"/"+name, func(t *testing.T) {
				t.Parallel()
				template := ca.template(t)
				change(&template)
				tbs := newTBS(t, template)
				for _, form := range []struct {
					name string
					got  []byte
					last *pkix.Extension
				}{
					{"logged", tbs.Logged(), nil},
					{"without CT", tbs.Certificate(nil), nil},
					{"precertificate", tbs.Precertificate(), &pkix.Extension{Id: OIDPoison, Critical: true, Value: []byte{5, 0}}},
					{"certificate", tbs.Certificate(sctList), &pkix.Extension{Id: OIDSCTList, Value: list}},
				} {
					if want := x509TBS(t, ca, template, form.last); !bytes.Equal(form.got, want) {
						t.Errorf("%s: encoded as\n%x\nwant\n%x", form.name, form.got, want)
					}
				}
			})
		}
	}
}
