//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const (
	minRSABits = 2048
	maxRSABits = 8192
)

// CKA_EC_PARAMS of the curves that a CA's key may use: namedCurve of ECParameters (RFC 3279,
// section 2.3.5; PKCS #11 Current Mechanisms 2.40, section 2.3.3).
const (
	paramsP256 = "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
	paramsP384 = "\x06\x05\x2b\x81\x04\x00\x22"
	paramsP521 = "\x06\x05\x2b\x81\x04\x00\x23"
)

// parseECPublic returns the key of CKA_EC_PARAMS and CKA_EC_POINT.
func parseECPublic(params, point []byte) (*ecdsa.PublicKey, error) {
	var curve elliptic.Curve
	switch string(params) {
	case paramsP256:
		curve = elliptic.P256()
	case paramsP384:
		curve = elliptic.P384()
	case paramsP521:
		curve = elliptic.P521()
	default:
		return nil, fmt.Errorf("its curve, by CKA_EC_PARAMS %.64x, is not P-256, P-384 or P-521; make a key on one of these", params)
	}
	point, err := unwrapPoint(point, 1+2*size(curve))
	if err != nil {
		return nil, err
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fmt.Errorf("its CKA_EC_POINT is no point on %s: %w", curve.Params().Name, err)
	}
	return public, nil
}

// unwrapPoint returns the uncompressed point, of n octets (SEC 1, section 2.3.3). The standard
// wraps it in a DER OCTET STRING; some tokens return it bare. Both begin with the octet 4, and
// only their lengths differ.
func unwrapPoint(point []byte, n int) ([]byte, error) {
	if len(point) == n {
		return point, nil
	}
	var bare cryptobyte.String
	in := cryptobyte.String(point)
	if !in.ReadASN1(&bare, asn1.OCTET_STRING) || !in.Empty() || len(bare) != n {
		return nil, fmt.Errorf("its CKA_EC_POINT, of %d octets, is not an uncompressed point of %d, bare or in a DER OCTET STRING", len(point), n)
	}
	return bare, nil
}

// parseRSAPublic returns the key of CKA_MODULUS and CKA_PUBLIC_EXPONENT, which are big-endian
// (section 2.1.2 of the mechanisms).
func parseRSAPublic(modulus, exponent []byte) (*rsa.PublicKey, error) {
	n, e := new(big.Int).SetBytes(modulus), new(big.Int).SetBytes(exponent)
	if bits := n.BitLen(); bits < minRSABits || bits > maxRSABits {
		return nil, fmt.Errorf("it is an RSA key of %d bits; it should have %d to %d", bits, minRSABits, maxRSABits)
	}
	// crypto/rsa accepts no other exponents.
	if e.BitLen() > 31 || e.Int64() < 3 || e.Bit(0) == 0 || n.Bit(0) == 0 {
		return nil, errors.New("its modulus or its public exponent is even, or the exponent is less than 3 or has more than 31 bits; make a key with 65537")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

// size is the number of octets of a coordinate, and of a number modulo the order of these curves.
func size(curve elliptic.Curve) int { return (curve.Params().BitSize + 7) / 8 }

// derSignature converts a signature of CKM_ECDSA, which is r and s, each of size octets
// (section 2.3.1 of the mechanisms), to the form that certificates hold (RFC 3279, section
// 2.2.3):
//
//	Ecdsa-Sig-Value ::= SEQUENCE { r INTEGER, s INTEGER }
func derSignature(raw []byte, size int) ([]byte, error) {
	if len(raw) != 2*size {
		return nil, fmt.Errorf("the token gave an ECDSA signature of %d octets, which should be %d: r and s", len(raw), 2*size)
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[:size]))
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[size:]))
	})
	return b.Bytes()
}

// sha256Prefix precedes the digest in a DigestInfo (RFC 8017, section 9.2, note 1).
const sha256Prefix = "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"

// toBeSigned returns the input of the token: the digest for CKM_ECDSA, its DigestInfo for
// CKM_RSA_PKCS, which pads only.
func toBeSigned(public crypto.PublicKey, hash crypto.Hash, message []byte) []byte {
	h := hash.New()
	h.Write(message)
	if _, isRSA := public.(*rsa.PublicKey); isRSA {
		return h.Sum([]byte(sha256Prefix))
	}
	return h.Sum(nil)
}
