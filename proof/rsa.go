// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"crypto/rsa"
	"crypto/sha256"
	"math"
	"math/big"
	"runtime"
	"sync"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/titanous/rocacheck"
)

// rsaExponent is the one public exponent that is accepted.
const rsaExponent = 65537

func unsupportedExponent() *refusal.Error {
	return refusal.New(refusal.KeyUnsupported, "the RSA key's public exponent is not %d, the only one accepted", rsaExponent)
}

const (
	// smallPrimeLimit: NIST SP 800-89, section 5.3.3, requires a search for factors below it.
	smallPrimeLimit = 752
	// fermatRounds: CA/Browser Forum Baseline Requirements, section 6.1.1.3.
	fermatRounds = 100
)

// rsaChecks holds the numbers that every check uses, and the moduli found composite.
type rsaChecks struct {
	smallPrimes *big.Int // the product of all primes below smallPrimeLimit
	sieve       *big.Int // 63 · 65 · 11
	squares     map[int64][]bool
	powers      []power
	composites  *composites
}

func newRSAChecks() rsaChecks {
	c := rsaChecks{smallPrimes: big.NewInt(1), sieve: big.NewInt(63 * 65 * 11), squares: map[int64][]bool{}, composites: newComposites()}
	for n := int64(2); n < smallPrimeLimit; n++ {
		if isPrime(n) {
			c.smallPrimes.Mul(c.smallPrimes, big.NewInt(n))
			if n > 2 && n <= maxPower {
				c.powers = append(c.powers, newPower(n))
			}
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

// check returns a refusal if the factors of key's modulus can be found with little work; its size
// and exponent are good. NIST SP 800-89, section 5.3.3, also requires a modulus that is neither a
// prime nor the power of one.
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
	if c.isPower(key.N) {
		return refusal.New(refusal.KeyWeak, "the RSA key's modulus is a power of a number, not the product of two primes; make a new key with another generator")
	}
	if !c.composites.contains(key.N) {
		return refusal.New(refusal.KeyWeak, "the RSA key's modulus is a prime, so that its private half follows from it; make a new key with another generator")
	}
	return nil
}

// closePrimes does fermatRounds rounds of Fermat's factorization. An odd n = p·q is a² − b² with a
// = (p+q)/2 and b = (p−q)/2. If p and q are close, a is just above √n. The first round finds a
// square, where b = 0.
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

// isSquare checks residues first: nearly every number that is not a square fails there. A square
// root costs as much as all other steps of a round together.
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

// maxPower is the largest exponent of a power that has maxModulus bits and no factor below
// smallPrimeLimit, which has 9.5 bits: 4096 / 9.5.
const maxPower = 431

// power finds numbers that are x^k for an odd prime k. Residues modulo a prime r with r ≡ 1 (mod k)
// exclude all but one number in k before a root is computed.
type power struct{ k, r *big.Int }

func newPower(k int64) power {
	r := 2*k + 1
	for !isPrime(r) {
		r += 2 * k
	}
	return power{big.NewInt(k), big.NewInt(r)}
}

// isPrime is for small numbers: each start computes a few thousand.
func isPrime(n int64) bool {
	for d := int64(2); d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}

// isPower reports whether n is x^k for some x and an odd prime k up to maxPower; closePrimes finds
// squares.
func (c rsaChecks) isPower(n *big.Int) bool {
	residue, exponent, one := new(big.Int), new(big.Int), big.NewInt(1)
	for _, p := range c.powers {
		// n is a k-th power modulo r if and only if n^((r-1)/k) = 1 (mod r).
		exponent.Quo(exponent.Sub(p.r, one), p.k)
		if residue.Exp(residue.Rem(n, p.r), exponent, p.r); residue.Cmp(one) != 0 {
			continue
		}
		if new(big.Int).Exp(root(n, p.k), p.k, nil).Cmp(n) == 0 {
			return true
		}
	}
	return false
}

// root returns the integer part of the k-th root of n, by Newton's method from above.
func root(n, k *big.Int) *big.Int {
	// The logarithm gives the first 40 bits; the margin keeps x at or above the root.
	mantissa := new(big.Float)
	exponent := new(big.Float).SetInt(n).MantExp(mantissa)
	fraction, _ := mantissa.Float64()
	whole, part := math.Modf((float64(exponent) + math.Log2(fraction)) / float64(k.Int64()))
	const precision, margin = 52, 1 << 12
	x := big.NewInt(int64(math.Exp2(part+precision)) + margin)
	x.Rsh(x.Lsh(x, uint(whole)), precision).Add(x, big.NewInt(1))
	below := new(big.Int).Sub(k, big.NewInt(1))
	for { // y = ((k−1)·x + n / x^(k−1)) / k
		y := new(big.Int).Exp(x, below, nil)
		y.Quo(n, y)
		y.Quo(y.Add(y, new(big.Int).Mul(below, x)), k)
		if y.Cmp(x) >= 0 {
			return x
		}
		x = y
	}
}

// composites remembers the moduli that were found composite last. The test is an exponentiation
// modulo n with as many steps as n has bits: 2 ms for 2048 bits and 18 for 4096. All other checks
// together take 0.1. No test that excludes primes is known to need fewer steps. A process that
// signs for a server checks each key twice. composites is safe for concurrent use.
type composites struct {
	mu     sync.Mutex
	known  map[[sha256.Size]byte]bool
	oldest [256][sha256.Size]byte // ring of the keys of known
	next   int
	// places limits concurrent tests to half of the cores. So certificates for other keys do not
	// wait for a caller that sends many RSA keys.
	places chan struct{}
}

func newComposites() *composites {
	return &composites{known: map[[sha256.Size]byte]bool{}, places: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
}

// contains reports whether n is composite. It never takes a prime for composite.
func (c *composites) contains(n *big.Int) bool {
	sum := sha256.Sum256(n.Bytes())
	c.mu.Lock()
	known := c.known[sum]
	c.mu.Unlock()
	if known {
		return true
	}
	c.places <- struct{}{}
	prime := n.ProbablyPrime(0)
	<-c.places
	if prime {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known[sum] {
		delete(c.known, c.oldest[c.next])
		c.known[sum], c.oldest[c.next] = true, sum
		c.next = (c.next + 1) % len(c.oldest)
	}
	return true
}
