// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
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

func TestSignedChallenge(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t)
	for name, test := range map[string]struct {
		key  crypto.Signer
		hash crypto.Hash
		size int    // of r and s, for ECDSA
		form string // the form that a refusal names
	}{
		"P-256":    {ecdsaKey(t, elliptic.P256()), crypto.SHA256, 32, "ECDSA and SHA-256, in ASN.1 DER or IEEE P1363"},
		"P-384":    {ecdsaKey(t, elliptic.P384()), crypto.SHA384, 48, "ECDSA and SHA-384, in ASN.1 DER or IEEE P1363"},
		"P-521":    {ecdsaKey(t, elliptic.P521()), crypto.SHA512, 66, "ECDSA and SHA-512, in ASN.1 DER or IEEE P1363"},
		"RSA-2048": {rsaKey(t, 2048), crypto.SHA256, 0, "RSA PKCS #1 v1.5 and SHA-256"},
		"Ed25519":  {ed25519Key(t), 0, 0, "Ed25519 over the value itself"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			der := spki(t, test.key.Public())
			sig := sign(t, test.key, test.hash, sub.Value)
			good := map[string][]byte{"as X.509 has it": sig}
			bad := map[string][]byte{
				"trailing byte":   append(bytes.Clone(sig), 0),
				"cut short":       sig[:len(sig)-1],
				"one bit changed": append(bytes.Clone(sig[:len(sig)-1]), sig[len(sig)-1]^1),
				"all zeros":       make([]byte, len(sig)),
				"over other text": sign(t, test.key, test.hash, sub.Value+" "),
				"too long":        make([]byte, maxSignature+1),
			}
			if test.size != 0 {
				raw := p1363(t, sig, test.size)
				good["P1363"] = raw
				bad["P1363 with a trailing byte"] = append(bytes.Clone(raw), 0)
				bad["P1363 with two trailing bytes"] = append(bytes.Clone(raw), 0, 0)
				bad["P1363 with padded halves"] = append(append([]byte{0}, raw[:test.size]...), append([]byte{0}, raw[test.size:]...)...)
				bad["P1363 of zeros"] = make([]byte, 2*test.size)
				bad["P1363 with halves exchanged"] = append(bytes.Clone(raw[test.size:]), raw[:test.size]...)
				bad["P1363 cut short"] = raw[:2*test.size-2]
			}
			for how, signature := range good {
				got, err := SignedChallenge{pemOf("PUBLIC KEY", der), signature}.Verify(policy, sub)
				if err != nil {
					t.Errorf("%s: %v", how, err)
					continue
				}
				if !bytes.Equal(got.SPKI, der) || !test.key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(got.Key) {
					t.Errorf("%s: another key came back", how)
				}
			}
			for how, signature := range bad {
				t.Run(how, func(t *testing.T) {
					_, err := SignedChallenge{pemOf("PUBLIC KEY", der), signature}.Verify(policy, sub)
					checkRefusal(t, err, refusal.ProofInvalid, `"sub"`, test.form)
				})
			}
			_, err := SignedChallenge{PublicKey: der}.Verify(policy, sub)
			checkRefusal(t, err, refusal.ProofInvalid, "is missing", `"sub"`, test.form)
		})
	}
}

func TestSignedChallengeWrongHash(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t)
	p256, p384, p521, rsa2048 := ecdsaKey(t, elliptic.P256()), ecdsaKey(t, elliptic.P384()), ecdsaKey(t, elliptic.P521()), rsaKey(t, 2048)
	digest := sha256.Sum256([]byte(sub.Value))
	pss, err := rsa.SignPSS(rand.Reader, rsa2048, crypto.SHA256, digest[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		key crypto.Signer
		sig []byte
	}{
		"P-256 with SHA-384": {p256, sign(t, p256, crypto.SHA384, sub.Value)},
		"P-384 with SHA-256": {p384, sign(t, p384, crypto.SHA256, sub.Value)},
		"P-521 with SHA-256": {p521, sign(t, p521, crypto.SHA256, sub.Value)},
		"RSA with SHA-512":   {rsa2048, sign(t, rsa2048, crypto.SHA512, sub.Value)},
		"RSA-PSS":            {rsa2048, pss},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := SignedChallenge{spki(t, test.key.Public()), test.sig}.Verify(policy, sub)
			checkRefusal(t, err, refusal.ProofInvalid, "does not verify", `claim "sub"`)
		})
	}
	// Ed25519 over a hash of the message is a signature over another message.
	key := ed25519Key(t)
	_, err = SignedChallenge{spki(t, key.Public()), sign(t, key, 0, string(digest[:]))}.Verify(policy, sub)
	checkRefusal(t, err, refusal.ProofInvalid, "not over a hash of it")
}

func TestSignedChallengeChallenges(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t)
	key := ecdsaKey(t, elliptic.P256())
	der := spki(t, key.Public())

	_, err := SignedChallenge{der, sign(t, key, crypto.SHA256, "")}.Verify(policy, Challenge{Claim: "email"})
	checkRefusal(t, err, refusal.ProofInvalid, `claim "email"`, "missing or empty")

	for _, value := range []string{"a", "älice@example.com", "a\x00b", " a "} {
		c := Challenge{Claim: "email", Value: value}
		if _, err := (SignedChallenge{der, sign(t, key, crypto.SHA256, value)}).Verify(policy, c); err != nil {
			t.Errorf("%q: %v", value, err)
		}
	}

	other := ecdsaKey(t, elliptic.P256())
	_, err = SignedChallenge{der, sign(t, other, crypto.SHA256, sub.Value)}.Verify(policy, sub)
	checkRefusal(t, err, refusal.ProofInvalid)
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
}

func TestNoPolicyAllowsNothing(t *testing.T) {
	t.Parallel()
	key := ecdsaKey(t, elliptic.P256())
	var refused *refusal.Error
	if _, err := (SignedChallenge{spki(t, key.Public()), nil}).Verify(nil, sub); err == nil || errors.As(err, &refused) {
		t.Errorf("signed challenge without a policy: %v", err)
	}
	if _, err := (CSR{}).Verify(nil, sub); err == nil || errors.As(err, &refused) {
		t.Errorf("CSR without a policy: %v", err)
	}
	_, err := SignedChallenge{spki(t, key.Public()), nil}.Verify(&KeyPolicy{}, sub)
	checkRefusal(t, err, refusal.KeyUnsupported, "accepts none")
}

// TestSPKIDoesNotDependOnTheForm: the same key in each form gives the same SPKI.
func TestSPKIDoesNotDependOnTheForm(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t)
	key := rsaKey(t, 2048)
	sig := sign(t, key, crypto.SHA256, sub.Value)
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
			p := SignedChallenge{pemOf("PUBLIC KEY", spki(b, key.Public())), sign(b, key, schemeOf(key.Public()).hash, sub.Value)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Verify(policy, sub); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
