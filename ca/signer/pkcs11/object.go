//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// maxObjects bounds the results of a search, which serve to find a second match and to name some.
const maxObjects = 64

// find returns the configured private key and its public key.
func (s *session) find() (p11.ObjectHandle, crypto.PublicKey, error) {
	private, err := s.findPrivate()
	var public crypto.PublicKey
	switch {
	case err != nil:
	case s.flag(private, p11.CKA_ALWAYS_AUTHENTICATE, false):
		err = at("label", "the key %q requires the PIN for each signature (CKA_ALWAYS_AUTHENTICATE), which a CA cannot give; create a key without this attribute", s.cfg.Label)
	case !s.flag(private, p11.CKA_SIGN, true):
		err = at("label", "the key %q may not sign (its CKA_SIGN is false); create a key that may", s.cfg.Label)
	default:
		public, err = s.findPublic(private)
	}
	if s.unread != nil { // the other error may result from it
		err = s.unread
	}
	return private, public, err
}

// findPrivate returns the one private key that is configured.
func (s *session) findPrivate() (p11.ObjectHandle, error) {
	class, label := p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_LABEL, s.cfg.Label)
	template := []*p11.Attribute{class, label}
	if len(s.cfg.ID) > 0 {
		template = append(template, p11.NewAttribute(p11.CKA_ID, s.cfg.ID))
	}
	found, err := s.search(template...)
	if err != nil || len(found) == 1 {
		return append(found, 0)[0], err
	}
	all, err := s.search(class)
	if err != nil {
		return 0, err
	}
	var ids, labels []string
	for _, object := range found {
		ids = append(ids, fmt.Sprintf("%x", s.bytes(object, p11.CKA_ID)))
	}
	for _, object := range all {
		labels = append(labels, string(s.bytes(object, p11.CKA_LABEL)))
	}
	if len(found) > 1 {
		return 0, at("label", "%d private keys of the token %q are labelled %q; choose one by its ID (the setting id), of: %s", len(found), s.cfg.Token, s.cfg.Label, list(ids))
	}
	return 0, at("label", "%w labelled %q (its ID: %x); those in the token %q are labelled: %s", ErrNoKey, s.cfg.Label, s.cfg.ID, s.cfg.Token, list(labels))
}

// findPublic returns the public key of a private one. It is in the public key object with the same
// ID or, if the pair was created without an ID, with the same label. An RSA private key usually
// includes it too.
func (s *session) findPublic(private p11.ObjectHandle) (public crypto.PublicKey, err error) {
	class := p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY)
	var found []p11.ObjectHandle
	id := s.bytes(private, p11.CKA_ID)
	if len(id) > 0 {
		found, err = s.search(class, p11.NewAttribute(p11.CKA_ID, id))
	}
	if err == nil && len(found) == 0 {
		found, err = s.search(class, p11.NewAttribute(p11.CKA_LABEL, s.cfg.Label))
	}
	if err != nil {
		return nil, err
	}
	err = errors.New("the token does not have it, so that it cannot be compared with the certificate; add it with pkcs11-tool --write-object (docs/signers.md)")
	if len(found) > 1 {
		err, found = fmt.Errorf("the token has %d with the key's ID %x or label; delete those of other keys", len(found), id), nil
	}
	for _, object := range append(found, private) {
		if point := s.bytes(object, p11.CKA_EC_POINT); len(point) > 0 {
			public, err = parseEC(s.bytes(object, p11.CKA_EC_PARAMS), point)
			break
		}
		if modulus := s.bytes(object, p11.CKA_MODULUS); len(modulus) > 0 {
			public, err = parseRSA(modulus, s.bytes(object, p11.CKA_PUBLIC_EXPONENT))
			break
		}
	}
	if err != nil {
		return nil, at("label", "the public key of the key %q in the token %q: %w", s.cfg.Label, s.cfg.Token, err)
	}
	return public, nil
}

// search returns up to maxObjects objects.
func (s *session) search(template ...*p11.Attribute) (found []p11.ObjectHandle, err error) {
	if err := s.lib.FindObjectsInit(s.handle, template); err != nil {
		return nil, at("token", "%w", failure("C_FindObjectsInit", err))
	}
	for more := 1; err == nil && more > 0 && len(found) < maxObjects; {
		var next []p11.ObjectHandle
		next, _, err = s.lib.FindObjects(s.handle, maxObjects)
		found, more = append(found, next...), len(next)
	}
	if err = errors.Join(failure("C_FindObjects", err), failure("C_FindObjectsFinal", s.lib.FindObjectsFinal(s.handle))); err != nil {
		return nil, at("token", "%w", err)
	}
	return found, nil
}

// bytes returns an attribute's value; nil if the object has none or hides it. Each attribute needs
// a call of its own, since one missing attribute fails the call for all. Any other error is in
// s.unread.
func (s *session) bytes(object p11.ObjectHandle, attribute uint) []byte {
	attributes, err := s.lib.GetAttributeValue(s.handle, object, []*p11.Attribute{p11.NewAttribute(attribute, nil)})
	switch {
	case is(err, p11.CKR_ATTRIBUTE_TYPE_INVALID, p11.CKR_ATTRIBUTE_SENSITIVE):
		return nil
	case err != nil:
		s.unread = at("token", "%w", failure("C_GetAttributeValue", err))
		return nil
	}
	return attributes[0].Value
}

// flag returns a CK_BBOOL; fallback if the object has none.
func (s *session) flag(object p11.ObjectHandle, attribute uint, fallback bool) bool {
	if value := s.bytes(object, attribute); len(value) == 1 {
		return value[0] != 0
	}
	return fallback
}

// generators describe how a token generates a key pair: the mechanism, and further attributes of
// the public key. CKA_EC_PARAMS are a namedCurve (RFC 5480, section 2.1.1).
var generators = map[string]struct {
	mechanism uint
	public    []*p11.Attribute
}{
	"ecdsa-p256": {p11.CKM_EC_KEY_PAIR_GEN, []*p11.Attribute{p11.NewAttribute(p11.CKA_EC_PARAMS, []byte("\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"))}},
	"ecdsa-p384": {p11.CKM_EC_KEY_PAIR_GEN, []*p11.Attribute{p11.NewAttribute(p11.CKA_EC_PARAMS, []byte("\x06\x05\x2b\x81\x04\x00\x22"))}},
	"rsa-4096":   {p11.CKM_RSA_PKCS_KEY_PAIR_GEN, []*p11.Attribute{p11.NewAttribute(p11.CKA_MODULUS_BITS, 4096), p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})}},
}

// Generate generates a key pair in the token, of algorithm "ecdsa-p256", "ecdsa-p384" or
// "rsa-4096", and opens it. The private key cannot leave the token and can only sign. Its CKA_ID
// is cfg.ID, otherwise random. Generate fails if the token has a private key of that name.
func (m *Modules) Generate(ctx context.Context, cfg Config, algorithm string) (signer.Key, error) {
	if generators[algorithm].public == nil {
		return nil, fmt.Errorf("unknown algorithm %q; it should be ecdsa-p256, ecdsa-p384 or rsa-4096", algorithm)
	}
	module, err := m.load(cfg)
	if err != nil {
		return nil, err
	}
	s, err := module.session(ctx, cfg, p11.CKF_RW_SESSION)
	if err != nil {
		return nil, err
	}
	defer s.end() // after the key is open, so that the login lasts
	if cfg.ID, err = s.generate(algorithm); err != nil {
		return nil, err
	}
	k, err := m.Open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening the key that was generated: %w", err)
	}
	return k, nil
}

// generate generates the key pair and returns its ID (sections 4.8 and 4.9 for the attributes).
func (s *session) generate(algorithm string) (id []byte, err error) {
	switch _, err := s.findPrivate(); {
	case err == nil:
		return nil, at("label", "the token %q has a private key labelled %q already; use it, or choose another label", s.cfg.Token, s.cfg.Label)
	case !errors.Is(err, ErrNoKey):
		return nil, err
	}
	if id = s.cfg.ID; len(id) == 0 {
		id = make([]byte, 16)
		_, _ = rand.Read(id) // it never fails
	}
	both := []*p11.Attribute{p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_LABEL, s.cfg.Label), p11.NewAttribute(p11.CKA_ID, id)}
	public := append(both[:3:3], p11.NewAttribute(p11.CKA_PRIVATE, false), p11.NewAttribute(p11.CKA_VERIFY, true))
	public = append(public, generators[algorithm].public...)
	private := append(both[:3:3], p11.NewAttribute(p11.CKA_PRIVATE, true))
	for attribute, value := range map[uint]bool{
		p11.CKA_SENSITIVE: true, p11.CKA_EXTRACTABLE: false, p11.CKA_SIGN: true, p11.CKA_DECRYPT: false, p11.CKA_UNWRAP: false, p11.CKA_DERIVE: false,
	} {
		private = append(private, p11.NewAttribute(attribute, value))
	}
	mechanism, locked := []*p11.Mechanism{p11.NewMechanism(generators[algorithm].mechanism, nil)}, p11.NewAttribute(p11.CKA_MODIFIABLE, false)
	_, made, err := s.lib.GenerateKeyPair(s.handle, mechanism, append(public, locked), append(private, locked))
	if is(err, p11.CKR_ATTRIBUTE_TYPE_INVALID, p11.CKR_ATTRIBUTE_VALUE_INVALID, p11.CKR_ATTRIBUTE_READ_ONLY, p11.CKR_TEMPLATE_INCONSISTENT) {
		_, made, err = s.lib.GenerateKeyPair(s.handle, mechanism, public, private) // the token does not know this attribute
	}
	if err != nil {
		return nil, at("token", "%w", failure("C_GenerateKeyPair", err))
	}
	// A token that cannot protect a key may return an error, or ignore the attributes.
	if s.flag(made, p11.CKA_EXTRACTABLE, false) || !s.flag(made, p11.CKA_SENSITIVE, true) {
		return nil, at("token", "it generated the key %q with the ID %x such that it can leave the token; delete it, and use a token that keeps its keys", s.cfg.Label, id)
	}
	return id, nil
}

// parseEC returns the key of CKA_EC_PARAMS, which are ECParameters, and CKA_EC_POINT (PKCS #11
// Current Mechanisms 2.40, section 2.3.3). The standard wraps the uncompressed point in a DER OCTET
// STRING; some tokens return it bare.
func parseEC(params, point []byte) (crypto.PublicKey, error) {
	var bare []byte
	if rest, err := asn1.Unmarshal(point, &bare); err != nil || len(rest) > 0 {
		bare = point
	}
	return parse(struct { // SubjectPublicKeyInfo (RFC 5480, section 2)
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}{
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, Parameters: asn1.RawValue{FullBytes: params}},
		asn1.BitString{Bytes: bare, BitLength: 8 * len(bare)},
	}, x509.ParsePKIXPublicKey)
}

// parseRSA returns the key of CKA_MODULUS and CKA_PUBLIC_EXPONENT, which are big-endian (section
// 2.1.2 of the mechanisms).
func parseRSA(modulus, exponent []byte) (crypto.PublicKey, error) {
	type rsaPublicKey struct{ N, E *big.Int } // RFC 8017, appendix A.1.1
	return parse(rsaPublicKey{new(big.Int).SetBytes(modulus), new(big.Int).SetBytes(exponent)}, x509.ParsePKCS1PublicKey)
}

// parse encodes a structure and parses the encoding, which checks all limits.
func parse[K crypto.PublicKey](structure any, parse func([]byte) (K, error)) (crypto.PublicKey, error) {
	der, err := asn1.Marshal(structure)
	if err != nil {
		return nil, err
	}
	return parse(der)
}

// sha256Prefix precedes the digest in a DigestInfo (RFC 8017, section 9.2, note 1).
const sha256Prefix = "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"

// input returns the mechanism of a key, and what it signs for a message: the digest with CKM_ECDSA,
// its DigestInfo with CKM_RSA_PKCS, which pads only.
func input(public crypto.PublicKey, hash crypto.Hash, message []byte) (mechanism uint, input []byte) {
	h := hash.New()
	h.Write(message)
	if _, isRSA := public.(*rsa.PublicKey); isRSA {
		return p11.CKM_RSA_PKCS, h.Sum([]byte(sha256Prefix))
	}
	return p11.CKM_ECDSA, h.Sum(nil)
}

// output returns a signature in the form that certificates hold. One of CKM_ECDSA is r and s, each
// of the size of the order (section 2.3.1 of the mechanisms); it becomes an Ecdsa-Sig-Value (RFC
// 3279, section 2.2.3).
func output(public crypto.PublicKey, raw []byte) ([]byte, error) {
	key, isEC := public.(*ecdsa.PublicKey)
	if !isEC {
		return raw, nil
	}
	size := (key.Curve.Params().BitSize + 7) / 8
	if len(raw) != 2*size {
		return nil, fmt.Errorf("the token gave an ECDSA signature of %d octets, which should be %d: r and s", len(raw), 2*size)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:size]), new(big.Int).SetBytes(raw[size:])})
}
