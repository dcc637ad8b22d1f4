// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	"github.com/transparency-dev/merkle/rfc6962"
)

// maxTileLeaf bounds one entry: two certificates of maxCertificate, and a chain's hashes.
const maxTileLeaf = 256 << 10

// tileLeaf is one entry of a data tile.
//
//	struct {                                   static-ct-api, section "Log entries"
//	    TimestampedEntry timestamped_entry;
//	    select (entry_type) {
//	        case x509_entry: Empty;
//	        case precert_entry: ASN.1Cert pre_certificate;
//	    };
//	    Fingerprint certificate_chain<0..2^16-1>;
//	} TileLeaf;
type tileLeaf struct {
	timestamp uint64
	precert   bool
	// certificate is the certificate, or the precertificate as it was submitted.
	certificate []byte
	// timestamped is the encoding of the TimestampedEntry.
	timestamped []byte
	index       uint64
	// issuers are the SHA-256 of the chain's certificates, the issuer first.
	issuers [][sha256.Size]byte
	// size is the number of bytes of the entry in the tile.
	size int
}

// readTileLeaf reads one entry. It accepts an entry only if it has parsed every byte.
func readTileLeaf(r io.Reader) (*tileLeaf, error) {
	in := fieldReader{r: r}
	leaf := tileLeaf{timestamp: in.number(8)}
	switch kind := in.number(2); ct.LogEntryType(kind) {
	case ct.X509LogEntryType:
		leaf.certificate = in.vector(3)
	case ct.PrecertLogEntryType:
		leaf.precert = true
		in.next(sha256.Size) // of the issuer's key
		in.vector(3)         // the TBSCertificate
	default:
		in.err = errors.Join(in.err, fmt.Errorf("an entry has the unknown type %d", kind))
	}
	extensions := in.vector(2)
	leaf.timestamped = slices.Clip(in.fields)
	if leaf.precert {
		leaf.certificate = in.vector(3)
	}
	issuers := in.vector(2)
	switch {
	case in.err != nil:
		return nil, in.err
	case len(extensions) != 8 || !bytes.HasPrefix(extensions, leafIndexExtension(0)[:3]):
		return nil, errors.New("an entry has other extensions than one leaf_index")
	case len(issuers)%sha256.Size != 0:
		return nil, errors.New("an entry has a part of an issuer")
	}
	leaf.index = decode(extensions[3:])
	for fingerprint := range slices.Chunk(issuers, sha256.Size) {
		leaf.issuers = append(leaf.issuers, [sha256.Size]byte(fingerprint))
	}
	leaf.size = len(in.fields)
	return &leaf, nil
}

// fieldReader reads the fields of one entry. After an error it reads nothing, and all fields are
// empty.
type fieldReader struct {
	r      io.Reader
	fields []byte // all that were read
	err    error
}

func (f *fieldReader) next(n int) []byte {
	start := len(f.fields)
	if f.err == nil && start+n > maxTileLeaf {
		f.err = fmt.Errorf("an entry has more than %d bytes", maxTileLeaf)
	}
	if f.err != nil {
		return nil
	}
	f.fields = slices.Grow(f.fields, n)[:start+n]
	if _, f.err = io.ReadFull(f.r, f.fields[start:]); errors.Is(f.err, io.EOF) || errors.Is(f.err, io.ErrUnexpectedEOF) {
		f.err = errors.New("an entry ends early")
	}
	return f.fields[start : start+n : start+n]
}

func (f *fieldReader) number(size int) uint64 { return decode(f.next(size)) }

// vector reads a vector with a length of so many bytes.
func (f *fieldReader) vector(size int) []byte { return f.next(int(f.number(size))) }

func decode(bigEndian []byte) (n uint64) {
	for _, b := range bigEndian {
		n = n<<8 | uint64(b)
	}
	return n
}

// merkleTreeLeaf returns the leaf_input of get-entries, which is also the input of the leaf
// hash.
//
//	struct {                                   RFC 6962, section 3.4
//	    Version version;
//	    MerkleLeafType leaf_type;
//	    TimestampedEntry timestamped_entry;
//	} MerkleTreeLeaf;
func (l *tileLeaf) merkleTreeLeaf() []byte {
	return append([]byte{byte(ct.V1), byte(ct.TimestampedEntryLeafType)}, l.timestamped...)
}

func (l *tileLeaf) hash() []byte { return rfc6962.DefaultHasher.HashLeaf(l.merkleTreeLeaf()) }

// leafEntry returns the entry as get-entries has it (RFC 6962, section 4.6).
func (l *tileLeaf) leafEntry(issuers *issuers) (*ct.LeafEntry, error) {
	chain := make([]ct.ASN1Cert, 0, len(l.issuers))
	for _, fingerprint := range l.issuers {
		der, err := issuers.get(fingerprint)
		if err != nil {
			return nil, fmt.Errorf("the issuer %x of entry %d: %w", fingerprint, l.index, err)
		}
		chain = append(chain, ct.ASN1Cert{Data: der})
	}
	var extra any = ct.CertificateChain{Entries: chain}
	if l.precert {
		extra = ct.PrecertChainEntry{PreCertificate: ct.ASN1Cert{Data: l.certificate}, CertificateChain: chain}
	}
	encoded, err := tls.Marshal(extra)
	return &ct.LeafEntry{LeafInput: l.merkleTreeLeaf(), ExtraData: encoded}, err
}
