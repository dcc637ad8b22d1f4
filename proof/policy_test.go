// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 DSA keys and points off the curve are made here to be refused

package proof

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"fmt"
	"math/big"
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
	_, err := NewKeyPolicy(KeyPolicyConfig{Algorithms: []string{"rsa-2048", "rsa-1024", "ED25519", "rsa-2048", ""}})
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
	for _, algorithm := range Algorithms() {
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
	if len(keys) != len(Algorithms()) {
		t.Errorf("%d keys for %d algorithms", len(keys), len(Algorithms()))
	}
}

func TestPolicyIsItsOwn(t *testing.T) {
	t.Parallel()
	names := []string{"ed25519"}
	policy := newPolicy(t, names...)
	names[0] = "ecdsa-p256"
	if err := policy.Check(ed25519Key(t).Public()); err != nil {
		t.Errorf("the caller changed the policy: %v", err)
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

// rocaNumber returns a number of the form of CVE-2017-15361 primes: k·M + (65537^a mod M). M is the
// product of the first 126 primes, as for keys of 2048 bits.
func rocaNumber(bits int, seed uint64) *big.Int {
	m := big.NewInt(1)
	for n, count := int64(2), 0; count < 126; n++ {
		if prime := big.NewInt(n); prime.ProbablyPrime(0) {
			m.Mul(m, prime)
			count++
		}
	}
	a := number(160, seed)
	residue := new(big.Int).Exp(big.NewInt(65537), a, m)
	k := new(big.Int).Div(number(bits, seed), m)
	primes := newRSAChecks().smallPrimes
	for {
		p := new(big.Int).Mul(k, m)
		p.Add(p, residue)
		if new(big.Int).GCD(nil, nil, p, primes).Cmp(big.NewInt(1)) == 0 {
			return p
		}
		k.Add(k, big.NewInt(1))
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
		for new(big.Int).GCD(nil, nil, q, primes).Cmp(big.NewInt(1)) != 0 {
			q.Add(q, big.NewInt(2))
		}
		return q
	}
	for name, test := range map[string]struct {
		n     *big.Int
		words string // "" for a key that is good
	}{
		"good":                       {times(number(1024, 1), number(1024, 2)), ""},
		"even":                       {times(big.NewInt(2), number(2047, 1)), "factor below 752"},
		"factor 3":                   {times(big.NewInt(3), number(2046, 1)), "factor below 752"},
		"factor 751":                 {times(big.NewInt(751), number(2038, 1)), "factor below 752"},
		"factor 757, not looked for": {times(big.NewInt(757), number(2038, 1)), ""},
		"a square":                   {times(p, p), "so close"},
		"neighbours":                 {times(p, near(1)), "so close"},
		"primes 2^300 apart":         {times(p, near(299)), "so close"},
		"primes 2^512 apart":         {times(p, near(511)), "so close"},
		"primes 2^700 apart":         {times(p, near(699)), ""},
		"ROCA":                       {times(rocaNumber(1024, 1), rocaNumber(1024, 2)), "CVE-2017-15361"},
		"one factor of ROCA's":       {times(rocaNumber(1024, 1), number(1024, 2)), ""},
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

// TestROCAKeyFromACard tests a key that a vulnerable chip generated, from the test vectors of the
// detection tool's authors.
func TestROCAKeyFromACard(t *testing.T) {
	t.Parallel()
	const key = `-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAlze9c7qGdjDLVR/ntk+4
ZkfMcYsAnmfTFHfe3Xv7jRQqPCXCULtr0y0jG3aRJmEenoXO9uDveqr43gFB9yvA
dLEhu0aJqpB7lNZ+yXsvfVp/96dkSN8oWYL/dd9Z7GQOvVniHUY3Xsd7zdw2eYOy
HSXhhA2Ttwnj3c1jEYfC0y9q1cU99aL0ogGDqolcOvlkJu+mGb+6+WyboFa1gwRu
kYxBHZWKiHCt/eihvXsPTzTlXmTXWdGJtA1xZDnCBWuZ90b5R0agXVIESTl0cCyH
aQM/tLZmktJIU+Eu7ALBXemPg9kh3SCnYd3/YvDGCtYSXOWthHwlP5CImRBcQaNn
cQIDAQAB
-----END PUBLIC KEY-----`
	_, err := SignedChallenge{PublicKey: []byte(key)}.Verify(newPolicy(t), sub)
	checkRefusal(t, err, refusal.KeyWeak, "ROCA")
}

// A modulus must be neither a prime nor a power (NIST SP 800-89, section 5.3.3).
func TestPrimeAndPowerRSAKeys(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t)
	// primes are the largest of 2048, 3072 and 4096 bits, 2^bits − d.
	for bits, d := range map[uint]int64{2048: 1942289, 3072: 1103717, 4096: 2549} {
		n := new(big.Int).Lsh(big.NewInt(1), bits)
		n.Sub(n, big.NewInt(d))
		if !n.ProbablyPrime(20) {
			t.Fatalf("2^%d − %d is no prime", bits, d)
		}
		for range 2 { // a refused modulus is not remembered as composite
			checkRefusal(t, policy.Check(&rsa.PublicKey{N: n, E: 65537}), refusal.KeyWeak, "is a prime")
		}
	}
	for _, bits := range []int{2048, 3072, 4096} {
		for k := int64(3); k <= maxPower; k += 2 {
			base := root(new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(bits)), big.NewInt(1)), big.NewInt(k))
			base.SetBit(base, 0, 1)
			for new(big.Int).Exp(base, big.NewInt(k), nil).BitLen() > bits || new(big.Int).GCD(nil, nil, base, policy.rsa.smallPrimes).Cmp(big.NewInt(1)) != 0 {
				base.Sub(base, big.NewInt(2))
			}
			n := new(big.Int).Exp(base, big.NewInt(k), nil)
			if n.BitLen() == bits && base.BitLen() > 9 {
				checkRefusal(t, policy.Check(&rsa.PublicKey{N: n, E: 65537}), refusal.KeyWeak, "is a power")
			}
		}
	}
}

// The root is exact where a floating-point number is not.
func TestRoot(t *testing.T) {
	t.Parallel()
	one := big.NewInt(1)
	for seed := range uint64(200) {
		base := number(12+int(seed)*6, seed)
		for _, k := range []int64{3, 5, 7, 31, 101, 431} {
			exponent := big.NewInt(k)
			n := new(big.Int).Exp(base, exponent, nil)
			if n.BitLen() > 8192 {
				continue
			}
			below := new(big.Int).Sub(base, one)
			for _, test := range []struct{ n, want *big.Int }{{n, base}, {new(big.Int).Add(n, one), base}, {new(big.Int).Sub(n, one), below}} {
				if got := root(test.n, exponent); got.Cmp(test.want) != 0 {
					t.Fatalf("the root %d of a number of %d bits is %x, want %x", k, test.n.BitLen(), got, test.want)
				}
			}
		}
	}
}

// Keys of many requests are tested once, and the memory for them is limited.
func TestCompositesAreRemembered(t *testing.T) {
	t.Parallel()
	c := newRSAChecks().composites
	for i := range int64(600) {
		if !c.contains(big.NewInt(4*i + 4)) {
			t.Fatalf("%d is composite", 4*i+4)
		}
	}
	if len(c.known) != len(c.oldest) {
		t.Errorf("%d moduli are known, want %d", len(c.known), len(c.oldest))
	}
	if c.contains(big.NewInt(65537)) {
		t.Error("65537 is prime")
	}
	for range cap(c.places) {
		c.places <- struct{}{}
	}
	if !c.contains(big.NewInt(4 * 600)) { // a known modulus needs no place
		t.Error("2400 is composite")
	}
}

func TestIsSquare(t *testing.T) {
	t.Parallel()
	c := newRSAChecks()
	for n := range int64(20_000) {
		root := big.NewInt(n)
		square := new(big.Int).Mul(root, root)
		if !c.isSquare(square) {
			t.Fatalf("%d² is no square", n)
		}
		if n > 0 && c.isSquare(square.Add(square, big.NewInt(1))) {
			t.Fatalf("%d² + 1 is a square", n)
		}
	}
	large := number(1025, 3)
	if !c.isSquare(new(big.Int).Mul(large, large)) {
		t.Error("the square of a large number is no square")
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

// TestEd25519SmallOrder computes, with the curve's own addition law, that the points in the list
// have an order that divides 8. It also finds that no such point is missing.
func TestEd25519SmallOrder(t *testing.T) {
	t.Parallel()
	policy := newPolicy(t)
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	order := map[string]bool{} // distinct y modulo p
	for i := 0; i < len(smallOrder); i += 32 {
		encoded := []byte(smallOrder[i : i+32])
		for _, sign := range []byte{0, 0x80} {
			key := bytes.Clone(encoded)
			key[31] |= sign
			checkRefusal(t, policy.Check(ed25519.PublicKey(key)), refusal.KeyWeak, "small order")
		}
		bigEndian := bytes.Clone(encoded)
		slices.Reverse(bigEndian)
		y := new(big.Int).Mod(new(big.Int).SetBytes(bigEndian), p)
		if !ofSmallOrder(y, p) {
			t.Errorf("the point with y = %x is of another order", bigEndian)
		}
		order[y.String()] = true
	}
	// Eight points, with x and −x: orders 1 and 2 have x = 0, the two of order 4 share y = 0, the
	// four of order 8 share two.
	if len(order) != 5 {
		t.Errorf("%d values of y, want 5", len(order))
	}
	checkRefusal(t, policy.Check(ed25519.PublicKey("short")), refusal.KeyWeak, "32 bytes")
}

// ofSmallOrder reports whether 8·(x, y) is the neutral element of −x² + y² = 1 + d·x²·y² (RFC 8032,
// section 5.1).
func ofSmallOrder(y, p *big.Int) bool {
	mod := func(n *big.Int) *big.Int { return n.Mod(n, p) }
	mul := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Mul(a, b)) }
	inverse := func(a *big.Int) *big.Int { return new(big.Int).ModInverse(a, p) }
	one := big.NewInt(1)
	d := mul(big.NewInt(-121665), inverse(big.NewInt(121666)))
	yy := mul(y, y)
	// x² = (y² − 1) / (d·y² + 1)
	xx := mul(new(big.Int).Sub(yy, one), inverse(mod(new(big.Int).Add(mul(d, yy), one))))
	x := new(big.Int).ModSqrt(xx, p)
	if x == nil {
		return false
	}
	for range 3 { // x3 = 2xy / (1 + d·x²y²), y3 = (y² + x²) / (1 − d·x²y²)
		xx, yy := mul(x, x), mul(y, y)
		dxxyy := mul(d, mul(xx, yy))
		x3 := mul(mul(big.NewInt(2), mul(x, y)), inverse(mod(new(big.Int).Add(one, dxxyy))))
		y3 := mul(new(big.Int).Add(yy, xx), inverse(mod(new(big.Int).Sub(one, dxxyy))))
		x, y = x3, y3
	}
	return x.Sign() == 0 && y.Cmp(one) == 0
}

// TestSmallOrderSignature shows the purpose of the list: with the neutral element as the key, the
// neutral element and 0 are a signature over every message.
func TestSmallOrderSignature(t *testing.T) {
	t.Parallel()
	key := ed25519.PublicKey(append([]byte{1}, make([]byte, 31)...))
	sig := append([]byte{1}, make([]byte, 63)...)
	if !ed25519.Verify(key, []byte("anything"), sig) {
		t.Error("crypto/ed25519 has begun to refuse it by itself")
	}
	_, err := SignedChallenge{spki(t, key), sig}.Verify(newPolicy(t), sub)
	checkRefusal(t, err, refusal.KeyWeak, "small order")
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
						clear(policy.rsa.composites.known)
					}
					if err := policy.Check(key); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
