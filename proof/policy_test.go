// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 points off the curve are created here to be refused

package proof

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

func TestNewKeyPolicy(t *testing.T) {
	t.Parallel()
	_, err := NewKeyPolicy("rsa-2048", "rsa-1024", "ED25519", "rsa-2048", "")
	var paths []string
	for _, e := range keypath.All(err) {
		paths = append(paths, strings.Join(e.Path, "/"))
	}
	if diff := cmp.Diff([]string{"algorithms/1", "algorithms/2", "algorithms/3", "algorithms/4"}, paths); diff != "" {
		t.Errorf("errors are at (-want +got):\n%s", diff)
	}
	for _, want := range []string{`no key algorithm "rsa-1024"`, "ecdsa-p256, ", `"rsa-2048" is listed twice`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
}

// TestPolicyAllowsWhatItNames tries a key of each algorithm with each policy of one algorithm.
func TestPolicyAllowsWhatItNames(t *testing.T) {
	t.Parallel()
	keys := map[string]crypto.PublicKey{
		"ecdsa-p256": ecdsaKey(t, elliptic.P256()).Public(),
		"ecdsa-p384": ecdsaKey(t, elliptic.P384()).Public(),
		"ecdsa-p521": ecdsaKey(t, elliptic.P521()).Public(),
		"ed25519":    ed25519Key(t).Public(),
	}
	for _, bits := range []int{2048, 3072, 4096} {
		keys["rsa-"+strconv.Itoa(bits)] = &rsa.PublicKey{N: number(bits, 1), E: 65537}
	}
	all := newPolicy(t)
	for _, algorithm := range algorithms() {
		policy := newPolicy(t, algorithm)
		for name, key := range keys {
			if err := all.Check(key); err != nil {
				t.Errorf("the default policy refuses %s: %v", name, err)
			}
			if err := policy.Check(key); name == algorithm && err != nil {
				t.Errorf("policy %s refuses its own: %v", algorithm, err)
			} else if name != algorithm {
				checkRefusal(t, err, refusal.KeyUnsupported, "accepts "+algorithm)
			}
		}
	}
	if len(keys) != len(algorithms()) {
		t.Errorf("%d keys for %d algorithms", len(keys), len(algorithms()))
	}
}

func TestUnsupportedKeys(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t)
	for name, test := range map[string]struct {
		key   crypto.PublicKey
		words string
	}{
		"RSA-2049":         {&rsa.PublicKey{N: number(2049, 1), E: 65537}, "2049 bits"},
		"RSA without N":    {&rsa.PublicKey{E: 65537}, "unknown kind"},
		"no curve":         {&ecdsa.PublicKey{}, "unknown kind"},
		"nil":              {nil, "unknown kind"},
		"RSA by value":     {rsa.PublicKey{N: number(2048, 1), E: 65537}, "unknown kind"},
		"a private key":    {ed25519Key(t), "unknown kind"},
		"a string":         {"ed25519", "unknown kind"},
		"RSA negative":     {&rsa.PublicKey{N: big.NewInt(-7), E: 65537}, "3 bits"},
		"RSA with N of 0":  {&rsa.PublicKey{N: new(big.Int), E: 65537}, "0 bits"},
		"exponent of zero": {&rsa.PublicKey{N: number(2048, 1)}, "public exponent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkRefusal(t, policy.Check(test.key), refusal.KeyUnsupported, test.words)
		})
	}
}

func TestWeakRSAKeys(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t)
	times := func(a, b *big.Int) *big.Int { return new(big.Int).Mul(a, b) }
	plus := func(a *big.Int, shift uint) *big.Int {
		return new(big.Int).Add(a, new(big.Int).Lsh(big.NewInt(2), shift))
	}
	p := number(1024, 1)
	near := func(shift uint) *big.Int { // p + 2^(shift+1) and a little, without small factors
		primes := newRSAChecks().smallPrimes
		q := plus(p, shift)
		for !coprime(q, primes) {
			q.Add(q, big.NewInt(2))
		}
		return q
	}
	power := func(shift uint, exponent int64) *big.Int { // of the largest prime below 3·2^shift
		p := new(big.Int).Lsh(big.NewInt(3), shift)
		for p.Sub(p, big.NewInt(1)); !p.ProbablyPrime(20); {
			p.Sub(p, big.NewInt(1))
		}
		return p.Exp(p, big.NewInt(exponent), nil)
	}
	block, _ := pem.Decode(must(os.ReadFile("testdata/roca.pem"))(t))
	roca := must(x509.ParsePKIXPublicKey(block.Bytes))(t).(*rsa.PublicKey)
	for name, test := range map[string]struct {
		n     *big.Int
		words string // "" for a key that is good
	}{
		"good":                       {times(number(1024, 1), number(1024, 2)), ""},
		"even":                       {times(big.NewInt(2), number(2047, 1)), "factor below 752"},
		"factor 3":                   {times(big.NewInt(3), number(2046, 1)), "factor below 752"},
		"factor 751":                 {times(big.NewInt(751), number(2038, 1)), "factor below 752"},
		"factor 757, not looked for": {times(big.NewInt(757), number(2038, 1)), ""},
		"a square":                   {times(p, p), "too close"},
		"neighbours":                 {times(p, near(1)), "too close"},
		"primes 2^300 apart":         {times(p, near(299)), "too close"},
		"primes 2^512 apart":         {times(p, near(511)), "too close"},
		"primes 2^700 apart":         {times(p, near(699)), ""},
		"ROCA":                       {roca.N, "CVE-2017-15361"},
		"a prime":                    {new(big.Int).Sub(plus(big.NewInt(0), 2047), big.NewInt(1942289)), "is a prime"},
		"a prime cubed":              {power(681, 3), "a power of"},
		"the power 5 of a prime":     {power(408, 5), "a power of"},
		"the power 7 of a product":   {new(big.Int).Exp(times(number(146, 4), number(147, 4)), big.NewInt(7), nil), "a power of"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.n.BitLen() != 2048 {
				t.Fatalf("the modulus has %d bits", test.n.BitLen())
			}
			err := policy.Check(&rsa.PublicKey{N: test.n, E: 65537})
			if test.words == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			checkRefusal(t, err, refusal.KeyWeak, test.words)
		})
	}
}

func TestEveryPower(t *testing.T) {
	t.Parallel()
	c := newRSAChecks()
	for _, p := range c.powers {
		x := new(big.Int).Lsh(big.NewInt(1), uint(4096/p.k.Int64()))
		n := x.Exp(x.Sub(x, big.NewInt(3)), p.k, nil)
		if !c.isPower(n) || c.isPower(n.Add(n, big.NewInt(2))) {
			t.Errorf("the power %d, or that + 2, is taken for the other", p.k)
		}
	}
}

// The test for primes is slow, so the moduli that passed it are remembered, and the memory for them
// is limited.
func TestPassedModuliAreRemembered(t *testing.T) {
	t.Parallel()
	c := newRSAChecks()
	key := func(seed uint64) *rsa.PublicKey {
		n := number(128, seed)
		return &rsa.PublicKey{N: n.Mul(n, number(128, seed+1000)), E: rsaExponent}
	}
	for seed := range uint64(len(c.passed) + 1) {
		if err := c.check(key(seed)); err != nil {
			t.Fatal(err)
		}
	}
	for range cap(c.places) { // from here on, only a known modulus passes
		c.places <- struct{}{}
	}
	if err := c.check(key(1)); err != nil {
		t.Error(err)
	}
	if slices.Contains(c.passed[:], sha256.Sum256(key(0).N.Bytes())) {
		t.Error("the oldest modulus is still known")
	}
}

func TestIsSquare(t *testing.T) {
	t.Parallel()
	c := newRSAChecks()
	for n := range int64(5000) {
		square := big.NewInt(n * n)
		if !c.isSquare(square) || c.isSquare(square.Add(square, big.NewInt(3))) != (n == 1) {
			t.Fatalf("%d² or %d² + 3 is taken for another number", n, n)
		}
	}
}

func TestPointsOffTheCurve(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t)
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key := ecdsaKey(t, curve).PublicKey
		key.Y = new(big.Int).Add(key.Y, big.NewInt(1))
		checkRefusal(t, policy.Check(&key), refusal.KeyWeak, "not an uncompressed point on "+curve.Params().Name)
	}
}

// For each key in the list, in both forms of its sign, somebody without a private key finds a message
// and its signature. The list is complete: eight points have five values of y, two of them in two forms.
func TestEd25519SmallOrder(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t)
	signature := append([]byte{1}, make([]byte, 63)...) // the neutral element, and 0
	for i := 0; i < len(smallOrder); i += 32 {
		for _, sign := range []byte{0, 0x80} {
			key := ed25519.PublicKey(smallOrder[i : i+32])
			key[31] |= sign
			forged := false
			for message := byte(0); !forged && message < 255; message++ {
				forged = ed25519.Verify(key, []byte{message}, signature)
			}
			if !forged {
				t.Errorf("%x is a point of another order", key)
			}
			_, err := SignedChallenge{spki(t, key), signature}.Verify(policy, sub)
			checkRefusal(t, err, refusal.KeyWeak, "small order")
		}
	}
	if len(smallOrder) != 7*32 {
		t.Errorf("%d bytes in the list, want 7 values of y", len(smallOrder))
	}
	checkRefusal(t, policy.Check(ed25519.PublicKey("short")), refusal.KeyWeak, "32 bytes")
}

// The cost of a key, first and once its modulus is known to be composite.
func BenchmarkPolicyRSA(b *testing.B) {
	policy := newPolicy(b)
	for _, bits := range []int{2048, 3072, 4096} {
		key := &rsa.PublicKey{N: new(big.Int).Mul(number(bits/2, 1), number(bits/2, 2)), E: 65537}
		for _, known := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d known=%t", bits, known), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if !known {
						clear(policy.rsa.passed[:])
					}
					if err := policy.Check(key); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
