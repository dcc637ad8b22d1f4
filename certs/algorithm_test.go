// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"testing"
)

func ed25519Key(t testing.TB) ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return must(key, err)(t)
}

func TestSignatureAlgorithm(t *testing.T) {
	t.Parallel()
	ed := ed25519Key(t)
	for name, test := range map[string]struct {
		key  crypto.Signer
		x509 x509.SignatureAlgorithm
		hash crypto.Hash
	}{
		"P-256":   {ecdsaKey(t, elliptic.P256()), x509.ECDSAWithSHA256, crypto.SHA256},
		"P-384":   {ecdsaKey(t, elliptic.P384()), x509.ECDSAWithSHA384, crypto.SHA384},
		"P-521":   {ecdsaKey(t, elliptic.P521()), x509.ECDSAWithSHA512, crypto.SHA512},
		"RSA":     {must(rsa.GenerateKey(rand.Reader, 2048))(t), x509.SHA256WithRSA, crypto.SHA256},
		"Ed25519": {ed25519Key(t), x509.PureEd25519, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := authorityWith(t, test.key)
			alg, public, tbs := ca.alg, test.key.Public(), []byte("to be signed")
			if alg.X509() != test.x509 || alg.Hash() != test.hash {
				t.Errorf("algorithm is %v with %v", alg, alg.Hash())
			}
			// crypto/x509 is the oracle for identifier and signature.
			var c struct{ TBS, Identifier, Signature asn1.RawValue }
			must(asn1.Unmarshal(ca.cert.Raw, &c))(t)
			if got := alg.Identifier(); string(got) != string(c.Identifier.FullBytes) {
				t.Errorf("identifier is %x, want %x", got, c.Identifier.FullBytes)
			}
			if err := alg.Verify(public, ca.cert.RawTBSCertificate, ca.cert.Signature); err != nil {
				t.Error(err)
			}
			sig := must(alg.Sign(rand.Reader, test.key, tbs))(t)
			if err := alg.Verify(public, tbs, sig); err != nil {
				t.Error(err)
			}
			other := must(SignatureAlgorithmFor(ed.Public()))(t)
			for name, err := range map[string]error{
				"another message":    alg.Verify(public, []byte("something else"), sig),
				"a trailing byte":    alg.Verify(public, tbs, append(sig, 0)),
				"no signature":       alg.Verify(public, tbs, nil),
				"the zero algorithm": SignatureAlgorithm{}.Verify(public, tbs, sig),
			} {
				if err == nil {
					t.Errorf("verifies with %s", name)
				}
			}
			if _, err := (SignatureAlgorithm{}).Sign(rand.Reader, test.key, tbs); err == nil {
				t.Error("the zero algorithm signs")
			}
			if other != alg {
				_, err := other.Sign(rand.Reader, test.key, tbs)
				checkError(t, err, "not with Ed25519")
				checkError(t, other.Verify(public, tbs, sig), "not with Ed25519")
			}
		})
	}
}

func TestSignatureAlgorithmForOtherKeys(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]crypto.PublicKey{
		"P-224":         ecdsaKey(t, elliptic.P224()).Public(),
		"no curve":      &ecdsa.PublicKey{},
		"X25519":        must(ecdh.X25519().GenerateKey(rand.Reader))(t).Public(),
		"nil":           nil,
		"private":       ed25519Key(t),
		"short Ed25519": ed25519.PublicKey("short"),
	} {
		if alg, err := SignatureAlgorithmFor(key); err == nil {
			t.Errorf("%s: %v", name, alg)
		}
	}
}
