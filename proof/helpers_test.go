// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
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

// must returns value, or fails the test if there is an error.
func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func ecdsaKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(curve, rand.Reader))(t)
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	return must(rsa.GenerateKey(rand.Reader, bits))(t)
}

func ed25519Key(t testing.TB) ed25519.PrivateKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return must(key, err)(t)
}

func newPolicy(t testing.TB, algorithms ...string) *KeyPolicy {
	return must(NewKeyPolicy(algorithms...))(t)
}

func spki(t testing.TB, pub crypto.PublicKey) []byte { return must(x509.MarshalPKIXPublicKey(pub))(t) }

func pemOf(blockType string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
}

// sign signs message with key over the hash of its scheme.
func sign(t testing.TB, key crypto.Signer, message string) []byte {
	hash := map[string]crypto.Hash{"ecdsa-p384": crypto.SHA384, "ecdsa-p521": crypto.SHA512, "ed25519": 0}
	opts, ok := hash[schemeOf(key.Public()).algorithm]
	if !ok {
		opts = crypto.SHA256
	}
	return must(crypto.SignMessage(key, rand.Reader, []byte(message), opts))(t)
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
		if coprime(n, primes) {
			return n
		}
	}
}
