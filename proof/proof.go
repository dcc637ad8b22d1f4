// SPDX-License-Identifier: Apache-2.0

// Package proof verifies that a caller holds the private key to certify, and that the key is good
// enough. It implements proof of possession, by a signed challenge or a CSR, and the key policy. It
// applies the policy before it verifies a signature, which costs more.
//
// All input comes from clients that are not trusted, so sizes are limited before parsing. Refusals
// are *refusal.Error of kind Malformed; from the client's input they contain only short names.
// Packages ca, server and app may import proof. From mayfly it imports only the vocabulary
// of errors.
package proof

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Limits on what a client sends, in octets. An RSA-4096 key has 800 in PEM, its signature 512, a
// CSR with some attributes 2,000.
const (
	maxPublicKey = 8 << 10
	maxCSR       = 16 << 10
	maxSignature = 1 << 10
)

// PublicKey is a key that passed the policy. The caller holds its private key.
type PublicKey struct {
	// Key is an *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey.
	Key crypto.PublicKey
	// SPKI is Key as SubjectPublicKeyInfo, DER. It is encoded again, so that it does not depend on
	// the form in which the client sent the key.
	SPKI []byte
}

// Challenge is the value that the client must sign.
type Challenge struct {
	// Claim is the name of the claim that Value is from, for messages.
	Claim string
	// Value is signed unchanged, in UTF-8. An empty value proves nothing and is refused.
	Value string
}

// SignedChallenge is a proof of possession by a signature over the challenge.
type SignedChallenge struct {
	// PublicKey is PEM of type PUBLIC KEY or RSA PUBLIC KEY, or the DER inside such a block. Of PEM
	// the first block counts; text around it is ignored.
	PublicKey []byte
	// Signature is over the challenge: ECDSA, ASN.1 or IEEE P1363, with SHA-256, SHA-384
	// or SHA-512 for P-256, P-384 or P-521; RSA PKCS #1 v1.5 with SHA-256; or Ed25519.
	Signature []byte
}

// Verify returns the key if policy allows it and the signature over c is the key's. Its refusals
// are REQUEST_MALFORMED (no readable key), KEY_UNSUPPORTED, KEY_WEAK and PROOF_INVALID, which names
// the claim.
func (p SignedChallenge) Verify(policy *KeyPolicy, c Challenge) (*PublicKey, error) {
	key, err := parsePublicKey(policy, p.PublicKey)
	if err != nil {
		return nil, refuse(refusal.RequestMalformed, "the public key cannot be used", err)
	}
	if err := policy.Check(key); err != nil {
		return nil, err
	}
	wanted, value := schemeOf(key), []byte(c.Value)
	switch n := len(p.Signature); {
	case len(value) == 0:
		return nil, refusal.New(refusal.ProofInvalid, "the token's claim %q, which must be signed, is missing or empty", c.Claim)
	case n == 0 || n > maxSignature || !wanted.verify(key, value, p.Signature) && !wanted.verifyP1363(key, value, p.Signature):
		return nil, refusal.New(refusal.ProofInvalid,
			"the proof of possession (%d bytes) does not verify with the public key; it must be the signature alone, over the value of the token's claim %q, with %s",
			n, c.Claim, wanted.challengeForm)
	}
	return canonical(key)
}

// pemBlock returns the first PEM block of input; nil if input is not PEM.
func pemBlock(input []byte, limit int) (*pem.Block, error) {
	if n := len(input); n == 0 || n > limit {
		return nil, malformed(fmt.Sprintf("it has %d bytes, not 1 to %d; send a public key in PEM with its proof of possession, or a CSR in PEM", n, limit))
	}
	block, _ := pem.Decode(input)
	if block == nil && bytes.Contains(input, []byte("-----BEGIN ")) {
		return nil, malformed("its PEM cannot be decoded; a BEGIN line, base64, and an END line of the same type are expected")
	}
	return block, nil
}

// canonical returns key with its SPKI. For what most clients send it does without encoding/asn1.
func canonical(key crypto.PublicKey) (*PublicKey, error) {
	const p256 = "\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00"
	if ec, ok := key.(*ecdsa.PublicKey); ok && ec.Curve == elliptic.P256() {
		if point, err := ec.Bytes(); err == nil {
			return &PublicKey{Key: key, SPKI: append([]byte(p256), point...)}, nil
		}
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	return &PublicKey{Key: key, SPKI: spki}, nil
}

// malformed describes the structure of what the client sent, in this package's own words. Its text
// may be shown to the client.
type malformed string

func (m malformed) Error() string { return string(m) }

// refuse returns err if it is a refusal already. Otherwise it returns a refusal with reason. Its
// message is prefix, followed by the text of err if err is malformed.
func refuse(reason refusal.Reason, prefix string, err error) error {
	var refused *refusal.Error
	if errors.As(err, &refused) {
		return refused
	}
	var text malformed
	if errors.As(err, &text) {
		prefix += ": " + string(text)
	}
	return refusal.New(reason, "%s", prefix).Because(err)
}

// shorten cuts a client's text to fit in a message.
func shorten(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

// The costs of proofs, in units of an issuance with P-256. A new RSA modulus is checked for factors;
// those that were checked lately cost less, which is not known here.
const (
	costP384    = 3
	costP521    = 5
	costRSA2048 = 6
	costRSA3072 = 16
	costRSA4096 = 32
)

// Cost returns the cost of a proof, SignedChallenge or CSR, before it is verified. It looks for the
// identifiers that a key must contain, so what it returns can be too much but not too little.
func Cost(p any) int {
	var der []byte
	parts := 1 // of the length of a modulus
	switch p := p.(type) {
	case SignedChallenge:
		der = p.PublicKey
	case CSR:
		der, parts = p.PEM, 2 // key and signature
	}
	if len(der) > maxCSR {
		return 1 // it will be refused
	}
	if block, _ := pem.Decode(der); block != nil {
		der = block.Bytes
	}
	const rsaEncryption, integer = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01", "\x02\x82"
	switch size := len(der) / parts; {
	case bytes.Contains(der, []byte(rsaEncryption)) || len(der) > 5 && string(der[4:6]) == integer:
		switch {
		case size <= 360:
			return costRSA2048
		case size <= 500:
			return costRSA3072
		default:
			return costRSA4096
		}
	case bytes.Contains(der, []byte("\x2b\x81\x04\x00\x23")):
		return costP521
	case bytes.Contains(der, []byte("\x2b\x81\x04\x00\x22")):
		return costP384
	default:
		return 1
	}
}
