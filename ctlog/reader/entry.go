// SPDX-License-Identifier: Apache-2.0

package reader

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	ct "github.com/google/certificate-transparency-go"
	"github.com/transparency-dev/merkle/rfc6962"
)

// maxEntry bounds one entry: two certificates of maxCertificate, and a chain's hashes.
const maxEntry = 256 << 10

// usualEntry is more than an ordinary entry has.
const usualEntry = 4 << 10

// Entry is one entry of a data tile.
//
//	struct {                                   static-ct-api, section "Log entries"
//	    TimestampedEntry timestamped_entry;
//	    select (entry_type) {
//	        case x509_entry: Empty;
//	        case precert_entry: ASN.1Cert pre_certificate;
//	    };
//	    Fingerprint certificate_chain<0..2^16-1>;
//	} TileLeaf;
type Entry struct {
	Timestamp uint64
	Precert   bool
	// Certificate is the certificate, or the precertificate as it was submitted.
	Certificate []byte
	// Timestamped is the encoding of the TimestampedEntry.
	Timestamped []byte
	Index       uint64
	// Issuers are the SHA-256 of the chain's certificates, the issuer first.
	Issuers [][sha256.Size]byte
	// Size is the number of bytes of the entry in the tile.
	Size int
}

// ReadEntry reads one entry. It accepts an entry only if it has parsed every byte.
func ReadEntry(r io.Reader) (*Entry, error) {
	in := fieldReader{r: r, fields: make([]byte, 0, usualEntry)}
	leaf := Entry{Timestamp: in.number(8)}
	switch kind := in.number(2); ct.LogEntryType(kind) {
	case ct.X509LogEntryType:
		leaf.Certificate = in.vector(3)
	case ct.PrecertLogEntryType:
		leaf.Precert = true
		in.next(sha256.Size) // of the issuer's key
		in.vector(3)         // the TBSCertificate
	default:
		in.err = errors.Join(in.err, fmt.Errorf("an entry has the unknown type %d", kind))
	}
	extensions := in.vector(2)
	leaf.Timestamped = slices.Clip(in.fields)
	if leaf.Precert {
		leaf.Certificate = in.vector(3)
	}
	issuers := in.vector(2)
	switch {
	case in.err != nil:
		return nil, in.err
	case len(extensions) != 8 || !bytes.HasPrefix(extensions, []byte{0, 0, 5}):
		return nil, errors.New("an entry has other extensions than one leaf_index")
	case len(issuers)%sha256.Size != 0:
		return nil, errors.New("an entry has a part of an issuer")
	}
	leaf.Index = decode(extensions[3:])
	for fingerprint := range slices.Chunk(issuers, sha256.Size) {
		leaf.Issuers = append(leaf.Issuers, [sha256.Size]byte(fingerprint))
	}
	leaf.Size = len(in.fields)
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
	if f.err == nil && start+n > maxEntry {
		f.err = fmt.Errorf("an entry has more than %d bytes", maxEntry)
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

// MerkleTreeLeaf returns the leaf_input of get-entries, which is also the input of the leaf
// hash.
//
//	struct {                                   RFC 6962, section 3.4
//	    Version version;
//	    MerkleLeafType leaf_type;
//	    TimestampedEntry timestamped_entry;
//	} MerkleTreeLeaf;
func (l *Entry) MerkleTreeLeaf() []byte {
	return append([]byte{byte(ct.V1), byte(ct.TimestampedEntryLeafType)}, l.Timestamped...)
}

func (l *Entry) Hash() []byte { return rfc6962.DefaultHasher.HashLeaf(l.MerkleTreeLeaf()) }
