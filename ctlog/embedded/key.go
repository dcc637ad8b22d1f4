// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	"github.com/transparency-dev/tessera/ctonly"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

// maxKeyFile bounds the size of a key file; a P-256 key takes about 250 bytes.
const maxKeyFile = 16 << 10

// logKey is the log's key, which is also the log's identity.
type logKey struct {
	*ctlog.PublicKey
	private *ecdsa.PrivateKey
}

// loadKey reads a PKCS#8 key, the one PEM block of its file, as Init writes it.
func loadKey(path string) (key *logKey, err error) {
	content, err := files.Read(path, maxKeyFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the log's key %s does not exist; mayfly ctlog init creates a new log with its key, and nothing creates a new key for an old log", path)
	}
	if err == nil {
		key, err = parseKey(content)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the log's key %s: %w", path, err)
	}
	return key, nil
}

func parseKey(content []byte) (*logKey, error) {
	der, err := pem.One(content, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T; it must be ECDSA P-256", parsed)
	}
	public, err := ctlog.NewPublicKey(private.Public())
	return &logKey{public, private}, err
}

// generateKey returns a new key and its PKCS#8 PEM.
func generateKey() (key *logKey, encoded []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generating the log's key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("marshalling the log's key: %w", err)
	}
	encoded = pem.Encode("PRIVATE KEY", der)
	key, err = parseKey(encoded)
	return key, encoded, err
}

func (k *logKey) sign(message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	return ecdsa.SignASN1(rand.Reader, k.private, digest[:])
}

// signSCT returns the SCT of the entry at index. After the version and the type, its signature covers
// the TimestampedEntry of the leaf (RFC 6962, sections 3.2 and 3.4).
func (k *logKey) signSCT(e *ctonly.Entry, index uint64) (ctlog.SCT, error) {
	message := append([]byte{byte(ct.V1), byte(ct.CertificateTimestampSignatureType)}, e.MerkleTreeLeaf(index)[2:]...)
	signature, err := k.sign(message)
	return ctlog.SCT{LogID: k.LogID(), Timestamp: e.Timestamp, Extensions: leafIndexExtension(index), Signature: signature}, err
}

// leafIndexExtension returns the CtExtensions of an SCT and of a leaf.
//
//	struct {                                   static-ct-api, section "SCT Extension"
//	    ExtensionType extension_type;          enum { leaf_index(0), (255) }
//	    opaque extension_data<0..2^16-1>;      uint8 uint40[5]; uint40 LeafIndex;
//	} Extension;
//	Extension CTExtensions<0..2^16-1>;
func leafIndexExtension(index uint64) []byte {
	return []byte{0, 0, 5, byte(index >> 32), byte(index >> 24), byte(index >> 16), byte(index >> 8), byte(index)}
}

// digitallySigned returns the encoding of a signature of this log (RFC 5246, section 4.7).
func digitallySigned(signature []byte) ([]byte, error) {
	return tls.Marshal(ct.DigitallySigned{
		Algorithm: tls.SignatureAndHashAlgorithm{Hash: tls.SHA256, Signature: tls.ECDSA}, Signature: signature,
	})
}
