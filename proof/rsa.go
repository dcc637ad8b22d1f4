// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"crypto/rsa"
	"math/big"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/titanous/rocacheck"
)

// rsaExponent is the one public exponent that is accepted.
const rsaExponent = 65537

func unsupportedExponent() *refusal.Error {
	return refusal.New(refusal.KeyUnsupported, "the RSA key's public exponent is not %d, the only one accepted", rsaExponent)
}

const (
	// smallPrimeLimit: NIST SP 800-89, section 5.3.3, looks for factors below it.
	smallPrimeLimit = 752
	// fermatRounds: CA/Browser Forum Baseline Requirements, section 6.1.1.3.
	fermatRounds = 100
)

// rsaChecks holds the numbers that each check needs again. It is immutable.
type rsaChecks struct {
	smallPrimes *big.Int // the product of all primes below smallPrimeLimit
	sieve       *big.Int // 63 · 65 · 11
	squares     map[int64][]bool
}

func newRSAChecks() rsaChecks {
	c := rsaChecks{smallPrimes: big.NewInt(1), sieve: big.NewInt(63 * 65 * 11), squares: map[int64][]bool{}}
	for n := int64(2); n < smallPrimeLimit; n++ {
		if prime := big.NewInt(n); prime.ProbablyPrime(0) { // exact below 2^64
			c.smallPrimes.Mul(c.smallPrimes, prime)
		}
	}
	for _, m := range []int64{64, 63, 65, 11} {
		c.squares[m] = make([]bool, m)
		for i := range m {
			c.squares[m][i*i%m] = true
		}
	}
	return c
}

// check tells whether the factors of key's modulus can be found with little work; its size
// and exponent are good.
func (c rsaChecks) check(key *rsa.PublicKey) error {
	if key.N.Bit(0) == 0 || new(big.Int).GCD(nil, nil, c.smallPrimes, key.N).Cmp(big.NewInt(1)) != 0 {
		return refusal.New(refusal.KeyWeak, "the RSA key's modulus has a factor below %d; make a new key with another generator", smallPrimeLimit)
	}
	if c.closePrimes(key.N) {
		return refusal.New(refusal.KeyWeak, "the RSA key's two primes are so close that its private half follows from it; make a new key with another generator")
	}
	if rocacheck.IsWeak(key) {
		return refusal.New(refusal.KeyWeak, "the RSA key is of the form that CVE-2017-15361 (ROCA) makes; make a new key with another generator")
	}
	return nil
}

// closePrimes does fermatRounds rounds of Fermat's factorization: an odd n = p·q is a² − b²
// with a = (p+q)/2 and b = (p−q)/2, and where p and q are close, a is just above √n. A
// square, where b = 0, is found in the first round.
func (c rsaChecks) closePrimes(n *big.Int) bool {
	a := new(big.Int).Sqrt(n)
	bb := new(big.Int).Mul(a, a) // b² = a² − n
	bb.Sub(bb, n)
	next := func() { // (a+1)² = a² + 2a + 1
		bb.Add(bb, a)
		a.Add(a, big.NewInt(1))
		bb.Add(bb, a)
	}
	if bb.Sign() < 0 {
		next()
	}
	for range fermatRounds {
		if c.isSquare(bb) {
			return true
		}
		next()
	}
	return false
}

// isSquare asks for the residues first, which nearly every number that is no square fails,
// since a square root costs as much as all other steps of a round together.
func (c rsaChecks) isSquare(n *big.Int) bool {
	if n.Sign() == 0 {
		return true
	}
	if !c.squares[64][n.Bits()[0]&63] {
		return false
	}
	r := new(big.Int).Rem(n, c.sieve).Int64()
	if !c.squares[63][r%63] || !c.squares[65][r%65] || !c.squares[11][r%11] {
		return false
	}
	root := new(big.Int).Sqrt(n)
	return root.Mul(root, root).Cmp(n) == 0
}
