// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

var sub = Challenge{Claim: "sub", Value: "repo:owner/name:ref:refs/heads/main"}

// p1363 converts an ASN.1 signature to the form r‖s.
func p1363(t testing.TB, sig []byte, size int) []byte {
	t.Helper()
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(sig, &rs); err != nil {
		t.Fatal(err)
	}
	return append(rs.R.FillBytes(make([]byte, size)), rs.S.FillBytes(make([]byte, size))...)
}

// TestPolicyComesBeforeTheProof: a key that the policy excludes is refused as such, whatever its
// signature.
func TestPolicyComesBeforeTheProof(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t, "ed25519")
	key := ecdsaKey(t, elliptic.P256())
	_, err := SignedChallenge{spki(t, key.Public()), []byte("no signature")}.Verify(policy, Challenge{})
	checkRefusal(t, err, refusal.KeyUnsupported, "ECDSA on P-256", "accepts ed25519")
	_, err = CSR{pemOf("CERTIFICATE REQUEST", csrDER(t, key, x509.ECDSAWithSHA512))}.Verify(policy, sub)
	checkRefusal(t, err, refusal.KeyUnsupported, "ECDSA on P-256", "accepts ed25519")
	_, err = SignedChallenge{spki(t, key.Public()), nil}.Verify(&KeyPolicy{}, sub)
	checkRefusal(t, err, refusal.KeyUnsupported, "accepts none")
}

// TestEmptyChallenge: a signature over nothing proves nothing.
func TestEmptyChallenge(t *testing.T) {
	t.Parallel()
	key := ecdsaKey(t, elliptic.P256())
	_, err := SignedChallenge{spki(t, key.Public()), sign(t, key, "")}.Verify(newPolicy(t), Challenge{Claim: "email"})
	checkRefusal(t, err, refusal.ProofInvalid)
}

// TestSPKIDoesNotDependOnTheForm: the same key in each form gives the same SPKI.
func TestSPKIDoesNotDependOnTheForm(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t)
	key := rsaKey(t, 2048)
	sig := sign(t, key, sub.Value)
	want := spki(t, key.Public())
	pkcs1 := x509.MarshalPKCS1PublicKey(&key.PublicKey)
	for _, form := range [][]byte{want, pkcs1, pemOf("PUBLIC KEY", want), pemOf("RSA PUBLIC KEY", pkcs1)} {
		got, err := SignedChallenge{form, sig}.Verify(policy, sub)
		if err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(want, got.SPKI); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// FuzzECDSASignature: only the generated signature, in its two forms, verifies.
func FuzzECDSASignature(f *testing.F) {
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	digest := sha256.Sum256([]byte(sub.Value))
	sig, err := key.Sign(nil, digest[:], crypto.SHA256) // deterministic: the same for each worker
	if err != nil {
		f.Fatal(err)
	}
	raw := p1363(f, sig, 32)
	f.Add(sig)
	f.Add(raw)
	f.Add(append(bytes.Clone(sig), 0))
	f.Add(make([]byte, 64))
	f.Add([]byte("\x30\x06\x02\x01\x01\x02\x01\x01"))
	policy, der := newPolicy(f), spki(f, key.Public())
	f.Fuzz(func(t *testing.T, signature []byte) {
		_, err := SignedChallenge{der, signature}.Verify(policy, sub)
		if made := bytes.Equal(signature, sig) || bytes.Equal(signature, raw); made != (err == nil) {
			t.Fatalf("%x: %v", signature, err)
		}
		if err != nil {
			checkRefusal(t, err, refusal.ProofInvalid)
		}
	})
}

func BenchmarkSignedChallenge(b *testing.B) {
	policy := newPolicy(b)
	for name, key := range map[string]crypto.Signer{"P-256": ecdsaKey(b, elliptic.P256()), "RSA-2048": rsaKey(b, 2048), "Ed25519": ed25519Key(b)} {
		b.Run(name, func(b *testing.B) {
			p := SignedChallenge{pemOf("PUBLIC KEY", spki(b, key.Public())), sign(b, key, sub.Value)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Verify(policy, sub); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
