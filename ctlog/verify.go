// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"golang.org/x/crypto/cryptobyte"

	"github.com/mayfly-ca/mayfly/internal/pem"
)

// How far an SCT's timestamp may be from this machine's clock. A log may answer a repeated
// submission with its first SCT, but this CA submits no precertificate for longer than the
// budget; the rest allows for clock differences.
const (
	MaxAge   = 2 * time.Minute
	MaxAhead = 10 * time.Second
)

// PublicKey is the key of a log, and its identity.
type PublicKey struct {
	key  *ecdsa.PublicKey
	spki []byte
	id   [32]byte
}

// ParsePublicKey reads a log's public key: exactly one PEM block of type PUBLIC KEY with an
// ECDSA P-256 key, since clients accept no other key of a log.
func ParsePublicKey(data []byte) (*PublicKey, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New("the log's public key is missing; without it no answer of the log can be verified")
	}
	der, err := pem.One(data, "PUBLIC KEY")
	if err != nil {
		return nil, fmt.Errorf("reading the log's public key: %w", err)
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("parsing the log's public key: %w", err)
	}
	key, err := NewPublicKey(parsed)
	if err != nil {
		return nil, err
	}
	// The log ID is a hash of these bytes: another encoding of the same key would be
	// another log.
	if !bytes.Equal(key.spki, der) {
		return nil, errors.New("the log's public key is not in the canonical DER encoding, so its log ID is ambiguous")
	}
	return key, nil
}

// NewPublicKey returns the key of a log; it must be ECDSA P-256.
func NewPublicKey(key crypto.PublicKey) (*PublicKey, error) {
	public, ok := key.(*ecdsa.PublicKey)
	switch {
	case !ok:
		return nil, fmt.Errorf("the log's key is a %T; it must be ECDSA P-256", key)
	case public.Curve != elliptic.P256():
		return nil, fmt.Errorf("the log's key is ECDSA %s; it must be ECDSA P-256", public.Params().Name)
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("marshalling the log's public key: %w", err)
	}
	return &PublicKey{key: public, spki: spki, id: sha256.Sum256(spki)}, nil
}

// LogID returns the SHA-256 of the SubjectPublicKeyInfo (RFC 6962, section 3.2).
func (k *PublicKey) LogID() [32]byte { return k.id }

// PEM returns the key as ParsePublicKey reads it.
func (k *PublicKey) PEM() []byte { return pem.Encode("PUBLIC KEY", k.spki) }

// VerifyTreeHead checks the signature of a tree head (RFC 6962, section 3.5).
func (k *PublicKey) VerifyTreeHead(head ct.SignedTreeHead) error {
	verifier, err := ct.NewSignatureVerifier(k.key)
	if err == nil {
		err = verifier.VerifySTHSignature(head)
	}
	return err
}

// Verify reports whether sct is this log's SCT for sub, given at about now. It checks the time last: the
// timestamp of a verified signature is evidence about this machine's clock. A failure is *InvalidError.
func (k *PublicKey) Verify(sct SCT, sub Submission, now time.Time) error {
	if err := k.verify(sct, sub, now); err != nil {
		return &InvalidError{Err: err}
	}
	return nil
}

func (k *PublicKey) verify(sct SCT, sub Submission, now time.Time) error {
	if sct.LogID != k.id {
		return fmt.Errorf("its log ID is %x, not %x", sct.LogID, k.id)
	}
	if err := checkExtensions(sct.Extensions); err != nil {
		return err
	}
	if n := len(sct.Signature); n == 0 || n > maxECDSAP256SignatureSize {
		return fmt.Errorf("its signature has %d bytes, which no ECDSA P-256 signature has", n)
	}
	digest, err := signedDigest(sct, sub)
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(k.key, digest[:], sct.Signature) {
		return errors.New("its signature is not the log's over this precertificate")
	}
	// Both ends are included, in whole milliseconds.
	oldest, newest := now.Add(-MaxAge).UnixMilli(), now.Add(MaxAhead).UnixMilli()
	if sct.Timestamp > math.MaxInt64 || int64(sct.Timestamp) > newest || int64(sct.Timestamp) < oldest {
		return wrongTime(fmt.Sprintf("its timestamp is %d; from %s before to %s after our clock's %d is accepted", sct.Timestamp, MaxAge, MaxAhead, now.UnixMilli()))
	}
	return nil
}

// wrongTime is the error of an SCT with a good signature and a timestamp that is not accepted: either
// the log's clock is wrong, or this machine's.
type wrongTime string

func (e wrongTime) Error() string { return string(e) }

// checkExtensions accepts no extension, or exactly one leaf_index.
//
//	struct {                                   static-ct-api, section "SCT Extension"
//	    ExtensionType extension_type;          enum { leaf_index(0), (255) }
//	    opaque extension_data<0..2^16-1>;      uint40 LeafIndex
//	} Extension;
//	Extension CTExtensions<0..2^16-1>;
func checkExtensions(extensions []byte) error {
	if _, ok := (SCT{Extensions: extensions}).LeafIndex(); !ok && len(extensions) > 0 {
		return fmt.Errorf("its extensions are %.32x; only one leaf_index of %d bytes is known", extensions, leafIndexSize)
	}
	return nil
}

// LeafIndex returns the index of the certificate's entry in the log; ok is false for an SCT that does not
// state it. A verified SCT has either no extension or this one.
func (sct SCT) LeafIndex() (index uint64, ok bool) {
	s := cryptobyte.String(sct.Extensions)
	var extensionType uint8
	var data cryptobyte.String
	if !s.ReadUint8(&extensionType) || !s.ReadUint16LengthPrefixed(&data) || !s.Empty() || extensionType != extensionTypeLeafIndex || len(data) != leafIndexSize {
		return 0, false
	}
	for _, b := range data {
		index = index<<8 | uint64(b)
	}
	return index, true
}

// signedDigest returns the SHA-256 of the data that the signature of a precertificate's SCT covers.
// The caller has checked the extensions.
//
//	digitally-signed struct {                  RFC 6962, section 3.2
//	    Version sct_version;
//	    SignatureType signature_type = certificate_timestamp;
//	    uint64 timestamp;
//	    LogEntryType entry_type;
//	    PreCert signed_entry;                  opaque issuer_key_hash[32]; opaque TBSCertificate<1..2^24-1>;
//	    CtExtensions extensions;
//	};
func signedDigest(sct SCT, sub Submission) (digest [sha256.Size]byte, err error) {
	n := len(sub.TBS)
	if n == 0 || n > maxTBSCertificate {
		return digest, fmt.Errorf("the submission's TBSCertificate has %d bytes", n)
	}
	b := append(make([]byte, 0, 64), versionV1, typeCertificateTimestamp)
	b = binary.BigEndian.AppendUint64(b, sct.Timestamp)
	b = binary.BigEndian.AppendUint16(b, entryTypePrecert)
	b = append(b, sub.IssuerKeyHash[:]...)
	b = append(b, byte(n>>16), byte(n>>8), byte(n))
	hash := sha256.New()
	hash.Write(b)
	hash.Write(sub.TBS)
	hash.Write(appendVector(b[:0], sct.Extensions))
	hash.Sum(digest[:0])
	return digest, nil
}
