// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"testing"
)

// The cost of a proof follows from its key in every form, and no form of a costly key is cheap.
func TestCost(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		key  crypto.Signer
		want int
	}{
		"ed25519": {ed25519Key(t), 1}, "p256": {ecdsaKey(t, elliptic.P256()), 1}, "p384": {ecdsaKey(t, elliptic.P384()), costP384},
		"p521": {ecdsaKey(t, elliptic.P521()), costP521}, "rsa-2048": {rsaKey(t, 2048), costRSA2048},
		"rsa-3072": {rsaKey(t, 3072), costRSA3072}, "rsa-4096": {rsaKey(t, 4096), costRSA4096},
	} {
		der := spki(t, test.key.Public())
		forms := map[string]any{
			"DER": SignedChallenge{PublicKey: der}, "PEM": SignedChallenge{PublicKey: pemOf("PUBLIC KEY", der)},
			"padded PEM": SignedChallenge{PublicKey: append(bytes.Repeat([]byte("\n"), 500), pemOf("PUBLIC KEY", der)...)},
			"CSR":        CSR{PEM: pemOf("CERTIFICATE REQUEST", csrDER(t, test.key, 0))},
		}
		if key, ok := test.key.Public().(*rsa.PublicKey); ok {
			forms["PKCS #1"] = SignedChallenge{PublicKey: x509.MarshalPKCS1PublicKey(key)}
			forms["PKCS #1 in PEM"] = SignedChallenge{PublicKey: pemOf("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(key))}
		}
		for form, p := range forms {
			if got := Cost(p); got != test.want {
				t.Errorf("%s, %s: %d, want %d", name, form, got, test.want)
			}
		}
	}
	for _, p := range []any{nil, SignedChallenge{}, CSR{PEM: []byte("x")}, CSR{PEM: make([]byte, maxCSR+1)}} {
		if got := Cost(p); got != 1 {
			t.Errorf("%.20v: %d, want 1", p, got)
		}
	}
}

// BenchmarkVerify is what the costs are from. A policy remembers moduli that have passed: those of
// "new" have not.
func BenchmarkVerify(b *testing.B) {
	for _, test := range []struct {
		name string
		key  crypto.Signer
	}{
		{"p256", ecdsaKey(b, elliptic.P256())}, {"p384", ecdsaKey(b, elliptic.P384())}, {"p521", ecdsaKey(b, elliptic.P521())}, {"ed25519", ed25519Key(b)},
		{"rsa-2048", rsaKey(b, 2048)}, {"rsa-3072", rsaKey(b, 3072)}, {"rsa-4096", rsaKey(b, 4096)},
	} {
		p := SignedChallenge{pemOf("PUBLIC KEY", spki(b, test.key.Public())), sign(b, test.key, "x")}
		verify := func(b *testing.B, policy *KeyPolicy) {
			if _, err := p.Verify(policy, Challenge{"sub", "x"}); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(test.name, func(b *testing.B) {
			policy := newPolicy(b)
			for b.Loop() {
				verify(b, policy)
			}
		})
		b.Run(test.name+", new", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				policy := newPolicy(b)
				b.StartTimer()
				verify(b, policy)
			}
		})
	}
}
