// SPDX-License-Identifier: Apache-2.0

package proof

import (
	"crypto/x509"
	stdasn1 "encoding/asn1"
	"fmt"

	"github.com/mayfly-ca/mayfly/internal/refusal"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// CSR is a proof of possession by a PKCS #10 certification request. Only its key and its signature
// count. The caller chooses the name and the attributes freely; they are not parsed.
type CSR struct {
	// PEM is of type CERTIFICATE REQUEST or NEW CERTIFICATE REQUEST. The first block counts; text
	// around it is ignored.
	PEM []byte
}

// Verify returns the CSR's key if policy allows it and it signed the CSR. It ignores the challenge,
// which a CSR does not contain. Its refusals are CSR_INVALID (unreadable, or signed with the wrong
// algorithm), KEY_UNSUPPORTED, KEY_WEAK and PROOF_INVALID (the signature does not verify).
func (p CSR) Verify(policy *KeyPolicy, _ Challenge) (*PublicKey, error) {
	request, err := parseCSR(p.PEM)
	if err != nil {
		return nil, refuse(refusal.CSRInvalid, "the CSR cannot be used", err)
	}
	key, err := parseSPKI(policy, request.spki)
	if err != nil {
		return nil, refuse(refusal.CSRInvalid, "the CSR's public key cannot be used", err)
	}
	if err := policy.Check(key); err != nil {
		return nil, err
	}
	wanted := schemeOf(key)
	if !request.signedWith(wanted) {
		return nil, refusal.New(refusal.CSRInvalid, "the CSR is signed with the algorithm %s; its key is %s, which needs %s (%s)",
			shorten(request.oid.String()), wanted.title, wanted.x509, wanted.oid)
	}
	if !wanted.verify(key, request.info, request.signature) {
		return nil, refusal.New(refusal.ProofInvalid, "the CSR's signature does not verify with the public key inside of it; sign the CSR with the private key of that public key")
	}
	return canonical(key)
}

// request is a parsed CSR.
type request struct {
	info       []byte // CertificationRequestInfo, the whole element; the signature is over it
	spki       []byte // the whole element
	oid        stdasn1.ObjectIdentifier
	parameters cryptobyte.String // of the signature algorithm; empty where absent
	signature  []byte
}

// signedWith reports whether the CSR names the signature algorithm of s. Some tools write NULL
// parameters where there must be none, or the reverse.
func (r *request) signedWith(s scheme) bool {
	null := string(r.parameters) == "\x05\x00"
	// RFC 8410, section 3: for Ed25519 the parameters must be absent.
	return r.oid.String() == s.oid && (r.parameters.Empty() || null && s.x509 != x509.PureEd25519)
}

func parseCSR(input []byte) (*request, error) {
	block, err := pemBlock(input, maxCSR)
	switch {
	case err != nil:
		return nil, err
	case block == nil:
		return nil, malformed("it is not PEM; a block of type CERTIFICATE REQUEST is expected")
	case block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST":
		return nil, malformed(fmt.Sprintf("its PEM is of type %q; CERTIFICATE REQUEST or NEW CERTIFICATE REQUEST is expected", shorten(block.Type)))
	}
	return parseCSRDER(block.Bytes)
}

// parseCSRDER reads (RFC 2986, section 4)
//
//	CertificationRequest ::= SEQUENCE {
//	     certificationRequestInfo CertificationRequestInfo,
//	     signatureAlgorithm AlgorithmIdentifier{{ SignatureAlgorithms }},
//	     signature          BIT STRING }
//	CertificationRequestInfo ::= SEQUENCE {
//	     version       INTEGER { v1(0) } (v1,...),
//	     subject       Name,
//	     subjectPKInfo SubjectPublicKeyInfo{{ PKInfoAlgorithms }},
//	     attributes    [0] Attributes{{ CRIAttributes }} }
//
// Some tools omit attributes where there are none.
func parseCSRDER(der []byte) (*request, error) {
	in := cryptobyte.String(der)
	var csr, info, content, algorithm, spki cryptobyte.String
	r := new(request)
	if !in.ReadASN1(&csr, asn1.SEQUENCE) || !in.Empty() ||
		!csr.ReadASN1Element(&info, asn1.SEQUENCE) ||
		!csr.ReadASN1(&algorithm, asn1.SEQUENCE) || !algorithm.ReadASN1ObjectIdentifier(&r.oid) ||
		!csr.ReadASN1BitStringAsBytes(&r.signature) || !csr.Empty() {
		return nil, malformed("it is not one CertificationRequest in DER")
	}
	r.info, r.parameters = info, algorithm
	var version int64
	attributes := asn1.Tag(0).ContextSpecific().Constructed()
	if !info.ReadASN1(&content, asn1.SEQUENCE) ||
		!content.ReadASN1Integer(&version) || version != 0 ||
		!content.SkipASN1(asn1.SEQUENCE) || !content.ReadASN1Element(&spki, asn1.SEQUENCE) ||
		!content.SkipOptionalASN1(attributes) || !content.Empty() {
		return nil, malformed("its CertificationRequestInfo is not one of version 1")
	}
	r.spki = spki
	return r, nil
}
