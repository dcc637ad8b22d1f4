// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"unicode"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

func ecdsaKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
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

func newPolicy(t testing.TB, algorithms ...string) *KeyPolicy {
	t.Helper()
	policy, err := NewKeyPolicy(KeyPolicyConfig{Algorithms: algorithms})
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

func spki(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func pemOf(blockType string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
}

// sign signs message with key over hash; with hash 0 it signs the message itself.
func sign(t testing.TB, key crypto.Signer, hash crypto.Hash, message string) []byte {
	t.Helper()
	digest := []byte(message)
	switch hash {
	case crypto.SHA256:
		sum := sha256.Sum256(digest)
		digest = sum[:]
	case crypto.SHA384:
		sum := sha512.Sum384(digest)
		digest = sum[:]
	case crypto.SHA512:
		sum := sha512.Sum512(digest)
		digest = sum[:]
	}
	sig, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// checkRefusal checks that err is a refusal with reason and words, and fit for a client.
func checkRefusal(t testing.TB, err error, reason refusal.Reason, words ...string) {
	t.Helper()
	var refused *refusal.Error
	if !errors.As(err, &refused) {
		t.Errorf("error %v, want a refusal %s", err, reason)
		return
	}
	if refused.Reason != reason {
		t.Errorf("reason %s (%q), want %s", refused.Reason, refused.Message, reason)
	}
	for _, word := range words {
		if !strings.Contains(refused.Message, word) {
			t.Errorf("message %q lacks %q", refused.Message, word)
		}
	}
	checkMessage(t, refused)
}

func checkMessage(t testing.TB, refused *refusal.Error) {
	t.Helper()
	if refused.Reason.Kind() != refusal.Malformed {
		t.Errorf("%s is not of kind Malformed", refused.Reason)
	}
	if len(refused.Message) < 30 || len(refused.Message) > 500 || strings.ContainsFunc(refused.Message, unicode.IsControl) {
		t.Errorf("message %q is not a sentence for a client", refused.Message)
	}
}

// number returns an odd number of exactly bits bits, with the two highest set and without small
// factors. It is the same for the same seed. The checks read the modulus alone, so its factors need
// not be primes.
func number(bits int, seed uint64) *big.Int {
	random := mathrand.New(mathrand.NewPCG(seed, uint64(bits)))
	primes := newRSAChecks().smallPrimes
	for {
		n := new(big.Int)
		for i := range bits {
			n.SetBit(n, i, uint(random.Uint64()&1))
		}
		n.SetBit(n, 0, 1)
		n.SetBit(n, bits-1, 1)
		n.SetBit(n, bits-2, 1)
		if new(big.Int).GCD(nil, nil, n, primes).Cmp(big.NewInt(1)) == 0 {
			return n
		}
	}
}
