// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"math/big"
	"runtime"
	"slices"
	"sync"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/titanous/rocacheck"
)

const (
	// rsaExponent is the one public exponent that is accepted.
	rsaExponent = 65537
	// smallPrimeLimit: NIST SP 800-89, section 5.3.3, requires a search for factors below it.
	smallPrimeLimit = 752
	// fermatRounds: CA/Browser Forum Baseline Requirements, section 6.1.1.3.
	fermatRounds = 100
	// squareModulus: modulo this number, one number in 22 is a square.
	squareModulus = 63 * 65 * 11
	// maxPower is the largest exponent of a power that has 4096 bits and no factor below
	// smallPrimeLimit, which has 9.5 bits: 4096 / 9.5.
	maxPower = 431
)

// rsaChecks finds RSA keys whose private key follows from the modulus with little work. It is safe
// for concurrent use.
type rsaChecks struct {
	smallPrimes *big.Int // the product of all primes below smallPrimeLimit
	squares     []bool   // the squares modulo squareModulus
	// powers are the odd primes k up to maxPower, each with a prime r that is 1 modulo k.
	powers []struct{ k, r *big.Int }
	// places limits concurrent tests for primes to half of the cores. So certificates for other
	// keys do not wait for a caller that sends many RSA keys.
	places chan struct{}

	mu     sync.Mutex             // guards the fields below
	passed [256][sha256.Size]byte // a ring of the moduli that passed last
	next   int
}

func newRSAChecks() *rsaChecks {
	c := &rsaChecks{smallPrimes: big.NewInt(1), squares: make([]bool, squareModulus), places: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
	for n := range int64(smallPrimeLimit) {
		if prime := big.NewInt(n); prime.ProbablyPrime(0) {
			c.smallPrimes.Mul(c.smallPrimes, prime)
			if n > 2 && n <= maxPower {
				r := big.NewInt(2*n + 1)
				for !r.ProbablyPrime(0) {
					r.Add(r, big.NewInt(2*n))
				}
				c.powers = append(c.powers, struct{ k, r *big.Int }{prime, r})
			}
		}
	}
	for i := range squareModulus {
		c.squares[i*i%squareModulus] = true
	}
	return c
}

// check returns a refusal if key is weak. Its size and exponent are good. The test for primes takes
// 2 ms for 2048 bits and 18 for 4096, and a process that signs for a server checks each key again.
// So the moduli that passed last are remembered.
func (c *rsaChecks) check(key *rsa.PublicKey) error {
	sum := sha256.Sum256(key.N.Bytes())
	c.mu.Lock()
	known := slices.Contains(c.passed[:], sum)
	c.mu.Unlock()
	if known {
		return nil
	}
	var found string
	switch {
	case !coprime(key.N, c.smallPrimes):
		found = fmt.Sprintf("has a factor below %d", smallPrimeLimit)
	case c.closePrimes(key.N):
		found = "is the product of two primes that are too close"
	case rocacheck.IsWeak(key):
		found = "has the form of CVE-2017-15361 (ROCA)"
	case c.isPower(key.N):
		found = "is a power of a smaller number"
	case c.primePower(key.N):
		found = "is a prime or the power of a prime"
	default:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.passed[c.next] = sum
		c.next = (c.next + 1) % len(c.passed)
		return nil
	}
	return refusal.New(refusal.KeyWeak, "the RSA key's modulus %s, so the private key can be computed from it; generate a new key with another program or device", found)
}

func coprime(a, b *big.Int) bool { return new(big.Int).GCD(nil, nil, a, b).Cmp(big.NewInt(1)) == 0 }

// closePrimes does fermatRounds rounds of Fermat's factorization. An odd n = p·q is a² − b² with a
// = (p+q)/2 and b = (p−q)/2. If p and q are close, a is just above √n.
func (c *rsaChecks) closePrimes(n *big.Int) bool {
	one := big.NewInt(1)
	a := new(big.Int).Sub(n, one)
	a.Add(a.Sqrt(a), one)        // √n, rounded up
	bb := new(big.Int).Mul(a, a) // b² = a² − n
	bb.Sub(bb, n)
	for range fermatRounds {
		if c.isSquare(bb) {
			return true
		}
		bb.Add(bb, a) // (a+1)² = a² + a + (a+1)
		a.Add(a, one)
		bb.Add(bb, a)
	}
	return false
}

// isSquare looks at the residue first: a square root costs as much as all other steps of a round.
func (c *rsaChecks) isSquare(n *big.Int) bool {
	if !c.squares[new(big.Int).Rem(n, big.NewInt(squareModulus)).Int64()] {
		return false
	}
	root := new(big.Int).Sqrt(n)
	return root.Mul(root, root).Cmp(n) == 0
}

// isPower reports whether n, which is odd, is x^k for an odd prime k. closePrimes finds squares.
func (c *rsaChecks) isPower(n *big.Int) bool {
	one := big.NewInt(1)
	for _, p := range c.powers {
		// A k-th power, to the power (r−1)/k, is 1 or 0 modulo r, and few other numbers are.
		residue, exponent := new(big.Int).Rem(n, p.r), new(big.Int).Sub(p.r, one)
		if residue.Exp(residue, exponent.Quo(exponent, p.k), p.r).Cmp(one) > 0 {
			continue
		}
		// Modulo a power of two, each odd number has one k-th root: its power with the inverse of k.
		beyond := new(big.Int).Lsh(one, uint(n.BitLen())/uint(p.k.Int64())+1) // greater than the root
		root := new(big.Int).ModInverse(p.k, beyond)
		if root.Exp(n, root, beyond); root.Exp(root, p.k, nil).Cmp(n) == 0 {
			return true
		}
	}
	return false
}

// primePower reports whether n, which is odd, is a power of a prime p, or p itself: NIST SP 800-89,
// section 5.3.3, forbids both. Then 2^n = 2 (mod p), so p divides 2^n − 2. For the product of two
// primes that are chosen independently, neither prime divides it.
func (c *rsaChecks) primePower(n *big.Int) bool {
	c.places <- struct{}{}
	defer func() { <-c.places }()
	two := big.NewInt(2)
	power := new(big.Int).Exp(two, n, n)
	return !coprime(power.Sub(power, two), n)
}
