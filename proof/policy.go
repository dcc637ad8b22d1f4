// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// algorithms returns the names of all key algorithms that a policy can allow.
func algorithms() []string {
	return []string{"ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519"}
}

// KeyPolicy decides which keys are certified: by algorithm and size, and never a weak key. It is
// safe for concurrent use. The zero KeyPolicy allows no key.
type KeyPolicy struct {
	allowed  []string
	accepted string // allowed, for messages
	rsa      *rsaChecks
}

// NewKeyPolicy returns the policy that allows the algorithms with these names, each at most once;
// none means all. Its errors have the paths ["algorithms", i].
func NewKeyPolicy(names ...string) (*KeyPolicy, error) {
	known := algorithms()
	if len(names) == 0 {
		names = known
	}
	var errs []error
	for i, name := range names {
		path := []string{"algorithms", strconv.Itoa(i)}
		switch {
		case !slices.Contains(known, name):
			errs = append(errs, keypath.Errorf(path, "there is no key algorithm %q; there are %s", name, strings.Join(known, ", ")))
		case slices.Contains(names[:i], name):
			errs = append(errs, keypath.Errorf(path, "%q is listed twice", name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &KeyPolicy{slices.Clone(names), strings.Join(names, ", "), newRSAChecks()}, nil
}

// Check returns nil if policy allows pub; otherwise a refusal. KEY_UNSUPPORTED is for an algorithm,
// curve, size or exponent that is not allowed. KEY_WEAK is for a key that discloses its private key
// or that does not identify one holder.
func (p *KeyPolicy) Check(pub crypto.PublicKey) error {
	s := schemeOf(pub)
	if s.algorithm == "" {
		return p.unsupported("of an unknown kind")
	}
	if !slices.Contains(p.allowed, s.algorithm) {
		return p.unsupported(s.title)
	}
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		if pub.E != rsaExponent {
			return refusal.New(refusal.KeyUnsupported, "the RSA key's public exponent is not %d, the only one accepted", rsaExponent)
		}
		return p.rsa.check(pub)
	case *ecdsa.PublicKey:
		// NIST SP 800-56A, section 5.6.2.3.3: on the curve, and not infinity. All three curves have
		// cofactor 1, so no other check is necessary.
		if _, err := pub.Bytes(); err != nil {
			return offCurve(pub.Curve).Because(err)
		}
		return nil
	case ed25519.PublicKey:
		return checkEd25519(pub)
	default:
		return p.unsupported(s.title)
	}
}

func (p *KeyPolicy) unsupported(found string) *refusal.Error {
	return refusal.New(refusal.KeyUnsupported, "the public key is %s; this certificate authority accepts %s", found, cmp.Or(p.accepted, "none"))
}

// smallOrder lists the y coordinates of all points with an order that divides 8, little-endian and
// without the sign of x. It has each encoding that verifiers accept: 0; 1; the two of order 8; p−1;
// and 0 and 1 written as p and p+1. A signature for such a key needs no private key.
const smallOrder = "" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05" +
	"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a" +
	"\xec\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f" +
	"\xed\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f" +
	"\xee\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"

func checkEd25519(pub ed25519.PublicKey) error {
	if len(pub) != ed25519.PublicKeySize {
		return refusal.New(refusal.KeyWeak, "the Ed25519 public key is not of 32 bytes")
	}
	y := bytes.Clone(pub)
	y[31] &= 0x7f
	for i := 0; i < len(smallOrder); i += len(y) {
		if string(y) == smallOrder[i:i+len(y)] {
			return refusal.New(refusal.KeyWeak, "the Ed25519 public key is a point of small order, for which anyone can create signatures")
		}
	}
	return nil
}
