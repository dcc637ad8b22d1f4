// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	stdasn1 "encoding/asn1"
	"fmt"
	"math/big"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Keys are parsed here rather than by crypto/x509. Its errors do not distinguish an unsupported
// key, a weak key and data that are no key. A fuzz test compares the two parsers.

// parsePublicKey parses the key of a signed challenge. policy affects only the text of the
// refusals.
func parsePublicKey(policy *KeyPolicy, input []byte) (crypto.PublicKey, error) {
	block, err := pemBlock(input, maxPublicKey)
	switch {
	case err != nil:
		return nil, err
	case block == nil:
		return parseKeyDER(policy, input)
	case block.Type == "PUBLIC KEY":
		return parseSPKI(policy, block.Bytes)
	case block.Type == "RSA PUBLIC KEY":
		return parsePKCS1(block.Bytes)
	case strings.HasSuffix(block.Type, "PRIVATE KEY"):
		return nil, malformed("it is a private key, which must never leave its owner; generate a new pair, and send its public key")
	default:
		return nil, malformed(fmt.Sprintf("its PEM is of type %q; PUBLIC KEY or RSA PUBLIC KEY is expected", shorten(block.Type)))
	}
}

// parseKeyDER reads a SubjectPublicKeyInfo, which begins with a sequence, or an
// RSAPublicKey, which begins with an integer.
func parseKeyDER(policy *KeyPolicy, der []byte) (crypto.PublicKey, error) {
	in := cryptobyte.String(der)
	var content cryptobyte.String
	if !in.ReadASN1(&content, asn1.SEQUENCE) {
		return nil, malformed("it is neither PEM nor DER")
	}
	if content.PeekASN1Tag(asn1.INTEGER) {
		return parsePKCS1(der)
	}
	return parseSPKI(policy, der)
}

// parseSPKI reads (RFC 5280, section 4.1, and RFC 5480, section 2)
//
//	SubjectPublicKeyInfo  ::=  SEQUENCE  {
//	     algorithm            AlgorithmIdentifier,
//	     subjectPublicKey     BIT STRING  }
//	AlgorithmIdentifier  ::=  SEQUENCE  {
//	     algorithm               OBJECT IDENTIFIER,
//	     parameters              ANY DEFINED BY algorithm OPTIONAL  }
func parseSPKI(policy *KeyPolicy, der []byte) (crypto.PublicKey, error) {
	in := cryptobyte.String(der)
	var info, algorithm, id cryptobyte.String
	var oid stdasn1.ObjectIdentifier
	var key []byte
	if !in.ReadASN1(&info, asn1.SEQUENCE) || !in.Empty() ||
		!info.ReadASN1(&algorithm, asn1.SEQUENCE) || !algorithm.ReadASN1Element(&id, asn1.OBJECT_IDENTIFIER) ||
		!info.ReadASN1BitStringAsBytes(&key) || !info.Empty() {
		return nil, malformed("it is not one SubjectPublicKeyInfo in DER")
	}
	switch string(id) {
	case "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01": // rsaEncryption; the parameters are NULL (RFC 3279, section 2.3.1)
		if string(algorithm) != "\x05\x00" {
			return nil, malformed("its RSA algorithm identifier lacks the NULL parameters")
		}
		return parsePKCS1(key)
	case "\x06\x07\x2a\x86\x48\xce\x3d\x02\x01": // id-ecPublicKey
		return parseEC(policy, algorithm, key)
	case "\x06\x03\x2b\x65\x70": // id-Ed25519 (RFC 8410, sections 3 and 4)
		if !algorithm.Empty() || len(key) != ed25519.PublicKeySize {
			return nil, malformed("it is not an Ed25519 key of 32 bytes without parameters")
		}
		return ed25519.PublicKey(bytes.Clone(key)), nil
	}
	if !id.ReadASN1ObjectIdentifier(&oid) {
		return nil, malformed("its algorithm's identifier is not DER")
	}
	return nil, policy.unsupported("of the algorithm " + shorten(oid.String()))
}

// parsePKCS1 reads (RFC 8017, appendix A.1.1)
//
//	RSAPublicKey ::= SEQUENCE {
//	     modulus           INTEGER,  -- n
//	     publicExponent    INTEGER   -- e
//	}
func parsePKCS1(der []byte) (crypto.PublicKey, error) {
	in := cryptobyte.String(der)
	var key cryptobyte.String
	n, e := new(big.Int), new(big.Int)
	if !in.ReadASN1(&key, asn1.SEQUENCE) || !in.Empty() ||
		!key.ReadASN1Integer(n) || !key.ReadASN1Integer(e) || !key.Empty() {
		return nil, malformed("it is not one RSAPublicKey in DER")
	}
	if n.Sign() <= 0 {
		return nil, refusal.New(refusal.KeyWeak, "the RSA key's modulus is not a positive number")
	}
	public := &rsa.PublicKey{N: n}
	if e.Cmp(big.NewInt(rsaExponent)) == 0 { // an int cannot hold every exponent; the policy refuses 0
		public.E = rsaExponent
	}
	return public, nil
}

// parseEC reads the point of a named curve (RFC 5480, section 2.1.1):
//
//	ECParameters ::= CHOICE {
//	     namedCurve         OBJECT IDENTIFIER
//	     -- implicitCurve   NULL
//	     -- specifiedCurve  SpecifiedECDomain
//	}
//
// CVE-2020-0601 used explicit parameters to pass a private key off as another's.
func parseEC(policy *KeyPolicy, parameters cryptobyte.String, point []byte) (crypto.PublicKey, error) {
	var curve elliptic.Curve
	switch string(parameters) {
	case "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07":
		curve = elliptic.P256()
	case "\x06\x05\x2b\x81\x04\x00\x22":
		curve = elliptic.P384()
	case "\x06\x05\x2b\x81\x04\x00\x23":
		curve = elliptic.P521()
	default:
		var oid stdasn1.ObjectIdentifier
		if !parameters.ReadASN1ObjectIdentifier(&oid) || !parameters.Empty() {
			return nil, policy.unsupported("ECDSA without a named curve")
		}
		return nil, policy.unsupported("ECDSA on the curve " + shorten(oid.String()))
	}
	if len(point) > 1 && (point[0] == 2 || point[0] == 3) {
		return nil, refusal.New(refusal.KeyUnsupported, "the EC public key is a compressed point; send it uncompressed")
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, offCurve(curve).Because(err)
	}
	return key, nil
}

func offCurve(curve elliptic.Curve) *refusal.Error {
	return refusal.New(refusal.KeyWeak, "the EC public key is not an uncompressed point on %s other than infinity", curve.Params().Name)
}
