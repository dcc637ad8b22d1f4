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
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
)

func ecdsaKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ed25519Key(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestSignatureAlgorithm(t *testing.T) {
	t.Parallel()
	other := ed25519Key(t)
	for name, test := range map[string]struct {
		key  crypto.Signer
		x509 x509.SignatureAlgorithm
		hash crypto.Hash
	}{
		"P-256":   {ecdsaKey(t, elliptic.P256()), x509.ECDSAWithSHA256, crypto.SHA256},
		"P-384":   {ecdsaKey(t, elliptic.P384()), x509.ECDSAWithSHA384, crypto.SHA384},
		"P-521":   {ecdsaKey(t, elliptic.P521()), x509.ECDSAWithSHA512, crypto.SHA512},
		"RSA":     {rsaKey(t), x509.SHA256WithRSA, crypto.SHA256},
		"Ed25519": {ed25519Key(t), x509.PureEd25519, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			alg, err := SignatureAlgorithmFor(test.key.Public())
			if err != nil {
				t.Fatal(err)
			}
			if alg.X509() != test.x509 || alg.Hash() != test.hash || alg.String() != test.x509.String() {
				t.Errorf("algorithm is %v with %v", alg, alg.Hash())
			}
			// crypto/x509 is the oracle for identifier and signature.
			checkAgainstX509(t, alg, test.key)

			tbs := []byte("to be signed")
			sig, err := alg.Sign(rand.Reader, test.key, tbs)
			if err != nil {
				t.Fatal(err)
			}
			if err := alg.Verify(test.key.Public(), tbs, sig); err != nil {
				t.Error(err)
			}
			if alg.Verify(test.key.Public(), []byte("something else"), sig) == nil {
				t.Error("verifies over another message")
			}
			if alg.Verify(test.key.Public(), tbs, append(sig, 0)) == nil {
				t.Error("verifies with a trailing byte")
			}
			if alg.Verify(test.key.Public(), tbs, nil) == nil {
				t.Error("verifies without a signature")
			}
			if otherAlg, _ := SignatureAlgorithmFor(other.Public()); otherAlg != alg {
				_, err := otherAlg.Sign(rand.Reader, test.key, tbs)
				checkError(t, err, "not with Ed25519")
				checkError(t, otherAlg.Verify(test.key.Public(), tbs, sig), "not with Ed25519")
			}
			var none SignatureAlgorithm
			if _, err := none.Sign(rand.Reader, test.key, tbs); err == nil {
				t.Error("the zero algorithm signs")
			}
			if none.Verify(test.key.Public(), tbs, sig) == nil {
				t.Error("the zero algorithm verifies")
			}
		})
	}
}

func checkAgainstX509(t *testing.T, alg SignatureAlgorithm, key crypto.Signer) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a"}, SignatureAlgorithm: alg.X509()}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		TBS        asn1.RawValue
		Identifier asn1.RawValue
		Signature  asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &c); err != nil {
		t.Fatal(err)
	}
	if got := alg.Identifier(); string(got) != string(c.Identifier.FullBytes) {
		t.Errorf("identifier is %x, want %x", got, c.Identifier.FullBytes)
	}
	if err := alg.Verify(key.Public(), c.TBS.FullBytes, c.Signature.Bytes); err != nil {
		t.Error(err)
	}
}

func TestSignatureAlgorithmForOtherKeys(t *testing.T) {
	t.Parallel()
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		key  crypto.PublicKey
		want string
	}{
		"P-224":    {ecdsaKey(t, elliptic.P224()).Public(), "curve other than"},
		"no curve": {&ecdsa.PublicKey{}, "curve other than"},
		"X25519":   {x25519.Public(), "*ecdh.PublicKey"},
		"nil":      {nil, "<nil>"},
		"private":  {ed25519Key(t), "ed25519.PrivateKey"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := SignatureAlgorithmFor(test.key)
			checkError(t, err, test.want)
		})
	}
	alg, err := SignatureAlgorithmFor(ed25519.PublicKey("short"))
	if err != nil {
		t.Fatal(err)
	}
	checkError(t, alg.Verify(ed25519.PublicKey("short"), nil, make([]byte, 64)), "32 bytes")
}
