// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/transparency-dev/tessera/ctonly"
	"golang.org/x/crypto/cryptobyte"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

// The code points that this log uses in signatures.
const (
	versionV1                = 0 // enum { v1(0), (255) } Version;                              RFC 6962, section 3.2
	typeCertificateTimestamp = 0 // enum { certificate_timestamp(0), … } SignatureType;         RFC 6962, section 3.2
	typeTreeHash             = 1 // enum { …, tree_hash(1), (255) } SignatureType;              RFC 6962, section 3.2
	leafTypeTimestampedEntry = 0 // enum { timestamped_entry(0), (255) } MerkleLeafType;        RFC 6962, section 3.4
	entryTypeX509            = 0 // enum { x509_entry(0), precert_entry(1), … } LogEntryType;   RFC 6962, section 3.1
	entryTypePrecert         = 1
	hashSHA256               = 4 // enum { …, sha256(4), … } HashAlgorithm;                     RFC 5246, section 7.4.1.4.1
	signatureECDSA           = 3 // enum { …, ecdsa(3), … } SignatureAlgorithm;                 RFC 5246, section 7.4.1.4.1
	extensionTypeLeafIndex   = 0 // enum { leaf_index(0), (255) } ExtensionType;                static-ct-api
)

// maxKeyFile bounds the size of a key file; a P-256 key takes about 250 bytes.
const maxKeyFile = 16 << 10

// logKey is the log's key, which is also the log's identity.
type logKey struct {
	signer crypto.Signer
	public *ecdsa.PublicKey
	spki   []byte
	id     [32]byte
}

// newLogKey accepts ECDSA P-256 only: clients accept no other key of a log.
func newLogKey(signer crypto.Signer) (*logKey, error) {
	public, ok := signer.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, fmt.Errorf("the log's key is %s; it must be ECDSA P-256", describeKey(signer.Public()))
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("marshalling the log's public key: %w", err)
	}
	return &logKey{signer: signer, public: public, spki: spki, id: sha256.Sum256(spki)}, nil
}

func describeKey(key crypto.PublicKey) string {
	if k, ok := key.(*ecdsa.PublicKey); ok {
		return "ECDSA " + k.Curve.Params().Name
	}
	return fmt.Sprintf("a %T", key)
}

// loadKey reads a PKCS#8 key, the one PEM block of its file, as Init writes it.
func loadKey(path string) (*logKey, error) {
	content, err := files.Read(path, maxKeyFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the log's key %s does not exist; mayfly ctlog init makes a new log with its key, and nothing makes a new key for an old log", path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the log's key: %w", err)
	}
	key, err := parseKey(content)
	if err != nil {
		return nil, fmt.Errorf("the log's key %s %w", path, err)
	}
	return key, nil
}

func parseKey(content []byte) (*logKey, error) {
	der, err := pem.One(content, "PRIVATE KEY")
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("cannot be parsed: %w", err)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("is a %T; it must be ECDSA P-256", parsed)
	}
	return newLogKey(signer)
}

// generateKey returns a new key and its PKCS#8 PEM.
func generateKey() (*logKey, []byte, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generating the log's key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("marshalling the log's key: %w", err)
	}
	key, err := newLogKey(private)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.Encode("PRIVATE KEY", der), nil
}

// publicPEM returns the public key as ctlog.LogConfig and trust roots take it.
func (k *logKey) publicPEM() []byte {
	return pem.Encode("PUBLIC KEY", k.spki)
}

func (k *logKey) sign(message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	signature, err := k.signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing with the log's key: %w", err)
	}
	return signature, nil
}

// signSCT returns the SCT of the entry at index.
//
//	digitally-signed struct {                  RFC 6962, section 3.2
//	    Version sct_version;
//	    SignatureType signature_type = certificate_timestamp;
//	    uint64 timestamp;
//	    LogEntryType entry_type;
//	    select(entry_type) {
//	        case x509_entry: ASN.1Cert;
//	        case precert_entry: PreCert;
//	    } signed_entry;
//	    CtExtensions extensions;
//	};
//
// The last four are the TimestampedEntry of the leaf (section 3.4).
func (k *logKey) signSCT(e *ctonly.Entry, index uint64) (ctlog.SCT, error) {
	leaf := e.MerkleTreeLeaf(index)
	// struct { Version version; MerkleLeafType leaf_type; TimestampedEntry … } MerkleTreeLeaf;
	message := append([]byte{versionV1, typeCertificateTimestamp}, leaf[2:]...)
	signature, err := k.sign(message)
	if err != nil {
		return ctlog.SCT{}, err
	}
	return ctlog.SCT{LogID: k.id, Timestamp: e.Timestamp, Extensions: leafIndexExtension(index), Signature: signature}, nil
}

// leafIndexExtension returns the CtExtensions of an SCT and of a leaf.
//
//	struct {                                   static-ct-api, section "SCT Extension"
//	    ExtensionType extension_type;          enum { leaf_index(0), (255) }
//	    opaque extension_data<0..2^16-1>;      uint8 uint40[5]; uint40 LeafIndex;
//	} Extension;
//	Extension CTExtensions<0..2^16-1>;
func leafIndexExtension(index uint64) []byte {
	return []byte{extensionTypeLeafIndex, 0, 5, byte(index >> 32), byte(index >> 24), byte(index >> 16), byte(index >> 8), byte(index)}
}

// treeHeadMessage returns the message that the signature of a tree head covers.
//
//	digitally-signed struct {                  RFC 6962, section 3.5
//	    Version version;
//	    SignatureType signature_type = tree_hash;
//	    uint64 timestamp;
//	    uint64 tree_size;
//	    opaque sha256_root_hash[32];
//	} TreeHeadSignature;
func treeHeadMessage(timestamp uint64, h treeHead) []byte {
	b := cryptobyte.NewBuilder(make([]byte, 0, 2+8+8+32))
	b.AddUint8(versionV1)
	b.AddUint8(typeTreeHash)
	b.AddUint64(timestamp)
	b.AddUint64(h.size)
	b.AddBytes(h.root[:])
	return b.BytesOrPanic()
}

// digitallySigned returns the encoding of a signature of this log.
//
//	struct {                                   RFC 5246, section 4.7
//	    SignatureAndHashAlgorithm algorithm;
//	    opaque signature<0..2^16-1>;
//	} DigitallySigned;
func digitallySigned(signature []byte) []byte {
	b := make([]byte, 0, 4+len(signature))
	b = append(b, hashSHA256, signatureECDSA, byte(len(signature)>>8), byte(len(signature)))
	return append(b, signature...)
}

// verifyTreeHead checks a TreeHeadSignature, given as its DigitallySigned.
func (k *logKey) verifyTreeHead(timestamp uint64, h treeHead, signed []byte) bool {
	s := cryptobyte.String(signed)
	var (
		hash, algorithm uint8
		signature       cryptobyte.String
	)
	if !s.ReadUint8(&hash) || !s.ReadUint8(&algorithm) || !s.ReadUint16LengthPrefixed(&signature) || !s.Empty() ||
		hash != hashSHA256 || algorithm != signatureECDSA {
		return false
	}
	digest := sha256.Sum256(treeHeadMessage(timestamp, h))
	return ecdsa.VerifyASN1(k.public, digest[:], signature)
}
