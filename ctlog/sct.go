// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"encoding/binary"
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
	maxVector                 = 1<<16 - 1
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

// size returns the number of bytes that append adds.
func (sct SCT) size() int { return sctFixedSize + len(sct.Extensions) + len(sct.Signature) }

func (sct SCT) append(b []byte) []byte {
	b = append(append(b, versionV1), sct.LogID[:]...)
	b = binary.BigEndian.AppendUint64(b, sct.Timestamp)
	b = append(appendVector(b, sct.Extensions), hashSHA256, signatureECDSA)
	return appendVector(b, sct.Signature)
}

// appendVector appends opaque<0..2^16-1>, which content must not exceed.
func appendVector(b, content []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(content))), content...)
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
	size := 0
	for _, sct := range scts {
		size += 2 + sct.size()
	}
	if size > maxVector { // therefore no part of it is longer either
		return nil, fmt.Errorf("marshalling SCT list: it has %d bytes", size)
	}
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+size), uint16(size))
	for _, sct := range scts {
		b = sct.append(binary.BigEndian.AppendUint16(b, uint16(sct.size())))
	}
	return b, nil
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
