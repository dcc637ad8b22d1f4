// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// The code points that an SCT of this package may have.
const (
	versionV1                 = 0 // enum { v1(0), (255) } Version;                            RFC 6962, section 3.2
	typeCertificateTimestamp  = 0 // enum { certificate_timestamp(0), … } SignatureType;       RFC 6962, section 3.2
	entryTypePrecert          = 1 // enum { x509_entry(0), precert_entry(1), … } LogEntryType; RFC 6962, section 3.1
	hashSHA256                = 4 // enum { …, sha256(4), … } HashAlgorithm;                   RFC 5246, section 7.4.1.4.1
	signatureECDSA            = 3 // enum { …, ecdsa(3), … } SignatureAlgorithm;               RFC 5246, section 7.4.1.4.1
	extensionTypeLeafIndex    = 0 // enum { leaf_index(0), (255) } ExtensionType;              static-ct-api
	leafIndexSize             = 5 // uint8 uint40[5]; uint40 LeafIndex;                        static-ct-api
	maxTBSCertificate         = 1<<24 - 1
	sctFixedSize              = 1 + 32 + 8 + 2 + 2 + 2
	maxECDSAP256SignatureSize = 72 // SEQUENCE of two INTEGERs of at most 33 bytes
)

// SCT is a signed certificate timestamp of version 1, signed with ECDSA over SHA-256. No
// other kind can be expressed: RFC 6962 has no other version, and a log that clients accept
// has a P-256 key.
type SCT struct {
	// LogID is the SHA-256 of the log's SubjectPublicKeyInfo, DER.
	LogID [32]byte
	// Timestamp is in milliseconds since the Unix epoch.
	Timestamp uint64
	// Extensions is the content of CtExtensions, without its length; nil if there are none.
	Extensions []byte
	// Signature is an ECDSA-Sig-Value, DER.
	Signature []byte
}

// Time returns the time of a timestamp in milliseconds. One after the year 9999, which JSON and RFC 3339
// cannot express, is at its end.
func Time(milliseconds uint64) time.Time {
	const latest = 253402300799_999
	return time.UnixMilli(int64(min(milliseconds, latest))).UTC()
}

// parseSCT reads the TLS encoding of one SCT, which must be the whole of s.
//
//	struct {                                   RFC 6962, section 3.2
//	    Version sct_version;
//	    LogID id;                              opaque key_id[32];
//	    uint64 timestamp;
//	    CtExtensions extensions;               opaque CtExtensions<0..2^16-1>;
//	    digitally-signed struct { … };
//	} SignedCertificateTimestamp;
func parseSCT(s cryptobyte.String) (sct SCT, err error) {
	var version uint8
	var extensions cryptobyte.String
	if !s.ReadUint8(&version) || !s.CopyBytes(sct.LogID[:]) || !s.ReadUint64(&sct.Timestamp) || !s.ReadUint16LengthPrefixed(&extensions) {
		return SCT{}, errors.New("an SCT ends early")
	}
	if version != versionV1 {
		return SCT{}, fmt.Errorf("the version of an SCT is %d, not 0 (v1)", version)
	}
	sct.Extensions = extensions
	sct.Signature, err = parseDigitallySigned(s)
	return sct, err
}

// parseDigitallySigned reads the whole of s and returns the signature inside.
//
//	struct {                                   RFC 5246, section 4.7
//	    SignatureAndHashAlgorithm algorithm;   struct { HashAlgorithm hash; SignatureAlgorithm signature; }
//	    opaque signature<0..2^16-1>;
//	} DigitallySigned;
func parseDigitallySigned(s cryptobyte.String) ([]byte, error) {
	var (
		hash, algorithm uint8
		signature       cryptobyte.String
	)
	if !s.ReadUint8(&hash) || !s.ReadUint8(&algorithm) || !s.ReadUint16LengthPrefixed(&signature) || !s.Empty() {
		return nil, errors.New("its signature ends early, or more data follows it")
	}
	if hash != hashSHA256 || algorithm != signatureECDSA {
		return nil, fmt.Errorf("it is signed with hash %d and algorithm %d, not 4 and 3 (SHA-256 and ECDSA)", hash, algorithm)
	}
	return signature, nil
}

// Marshal returns the TLS encoding of the SCT. It fails only if the extensions or the
// signature are longer than 65535 bytes, which no verified and no parsed SCT has.
func (sct SCT) Marshal() ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, sctFixedSize+len(sct.Extensions)+len(sct.Signature)))
	sct.marshal(b)
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("marshalling SCT: %w", err)
	}
	return der, nil
}

func (sct SCT) marshal(b *cryptobyte.Builder) {
	b.AddUint8(versionV1)
	b.AddBytes(sct.LogID[:])
	b.AddUint64(sct.Timestamp)
	addVector(b, sct.Extensions)
	b.AddUint8(hashSHA256)
	b.AddUint8(signatureECDSA)
	addVector(b, sct.Signature)
}

// addVector adds opaque<0..2^16-1>.
func addVector(b *cryptobyte.Builder, content []byte) {
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(content) })
}

// MarshalSCTList returns the TLS encoding of a list of SCTs, as certs.TBS.Certificate takes
// it. An empty list has no encoding and is an error, so that a forgotten SCT never results in
// a certificate without a log.
//
//	opaque SerializedSCT<1..2^16-1>;           RFC 6962, section 3.3
//	struct {
//	    SerializedSCT sct_list <1..2^16-1>;
//	} SignedCertificateTimestampList;
func MarshalSCTList(scts ...SCT) ([]byte, error) {
	if len(scts) == 0 {
		return nil, errors.New("marshalling SCT list: there is no SCT")
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, 2+len(scts)*(2+sctFixedSize+leafIndexSize+3+maxECDSAP256SignatureSize)))
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, sct := range scts {
			b.AddUint16LengthPrefixed(sct.marshal)
		}
	})
	list, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("marshalling SCT list: %w", err)
	}
	return list, nil
}

// ParseSCTList reads what MarshalSCTList writes, the whole of b. It checks no signature and no
// extensions; (*PublicKey).Verify does both.
func ParseSCTList(b []byte) (scts []SCT, err error) {
	s := cryptobyte.String(b)
	var list, serialized cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&list) || !s.Empty() || list.Empty() {
		return nil, errors.New("parsing SCT list: it is empty, it ends early, or more data follows it")
	}
	for !list.Empty() {
		if !list.ReadUint16LengthPrefixed(&serialized) {
			return nil, errors.New("parsing SCT list: it ends early")
		}
		sct, err := parseSCT(serialized)
		if err != nil {
			return nil, fmt.Errorf("parsing SCT list: %w", err)
		}
		scts = append(scts, sct)
	}
	return scts, nil
}
