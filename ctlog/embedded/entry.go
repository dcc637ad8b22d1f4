// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/crypto/cryptobyte"
)

// tileLeaf is one entry of a data tile, in slices of the tile.
//
//	struct {                                   static-ct-api, section "Log entries"
//	    TimestampedEntry timestamped_entry;
//	    select (entry_type) {
//	        case x509_entry: Empty;
//	        case precert_entry: ASN.1Cert pre_certificate;
//	    };
//	    Fingerprint certificate_chain<0..2^16-1>;
//	} TileLeaf;
//
//	struct {                                   RFC 6962, section 3.4
//	    uint64 timestamp;
//	    LogEntryType entry_type;
//	    select(entry_type) {
//	        case x509_entry: ASN.1Cert;
//	        case precert_entry: PreCert;
//	    } signed_entry;
//	    CtExtensions extensions;
//	} TimestampedEntry;
type tileLeaf struct {
	timestamp uint64
	precert   bool
	// certificate is the certificate, or the precertificate as it was submitted.
	certificate []byte
	// timestamped is the encoding of the TimestampedEntry.
	timestamped []byte
	index       uint64
	// issuers are SHA-256 hashes of certificates, one after the other.
	issuers []byte
	// size is the number of bytes of the entry in the tile.
	size int
}

// readTileLeaf removes one entry from s. It accepts an entry only if it has parsed every
// byte.
func readTileLeaf(s *cryptobyte.String) (*tileLeaf, error) {
	var (
		whole            = *s
		leaf             tileLeaf
		entryType        uint16
		signed, precert  cryptobyte.String
		extensions, data cryptobyte.String
		extensionType    uint8
		issuers          cryptobyte.String
	)
	if !s.ReadUint64(&leaf.timestamp) || !s.ReadUint16(&entryType) {
		return nil, errTileLeaf
	}
	switch entryType {
	case entryTypeX509:
	case entryTypePrecert:
		leaf.precert = true
		if !s.Skip(sha256.Size) {
			return nil, errTileLeaf
		}
	default:
		return nil, fmt.Errorf("an entry has the unknown type %d", entryType)
	}
	if !s.ReadUint24LengthPrefixed(&signed) || !s.ReadUint16LengthPrefixed(&extensions) {
		return nil, errTileLeaf
	}
	leaf.timestamped = whole[:len(whole)-len(*s)]
	leaf.certificate = signed
	if leaf.precert {
		if !s.ReadUint24LengthPrefixed(&precert) {
			return nil, errTileLeaf
		}
		leaf.certificate = precert
	}
	if !extensions.ReadUint8(&extensionType) || !extensions.ReadUint16LengthPrefixed(&data) || !extensions.Empty() ||
		extensionType != extensionTypeLeafIndex || len(data) != 5 {
		return nil, errors.New("an entry has other extensions than one leaf_index")
	}
	for _, b := range data {
		leaf.index = leaf.index<<8 | uint64(b)
	}
	if !s.ReadUint16LengthPrefixed(&issuers) || len(issuers)%sha256.Size != 0 {
		return nil, errTileLeaf
	}
	leaf.issuers = issuers
	return &leaf, nil
}

// errTileLeaf: all fields have a length, so that most damage appears as an early end of the
// data.
var errTileLeaf = errors.New("an entry ends early")

const (
	// windowSize is the size of one read of a data tile.
	windowSize = 32 << 10
	// maxTileLeaf bounds one entry: two certificates of maxCertificate, and a chain's hashes.
	maxTileLeaf = 256 << 10
)

// readTileLeaves yields the first count entries of a data tile; the first one must have the index
// first. It stops after an error. It keeps only a window of the tile in memory: a tile of 256
// large certificates has 32 MiB.
func readTileLeaves(r io.Reader, first uint64, count int) iter.Seq2[*tileLeaf, error] {
	return func(yield func(*tileLeaf, error) bool) {
		var window cryptobyte.String // data that is read but not yet parsed
		for i := range count {
			index := first + uint64(i)
			rest := window
			leaf, err := readTileLeaf(&rest)
			for errors.Is(err, errTileLeaf) && len(window) < maxTileLeaf {
				// Entries that were yielded keep the old window.
				wider := make([]byte, len(window)+max(len(window), windowSize))
				n, errRead := io.ReadFull(r, wider[copy(wider, window):])
				if n == 0 && errors.Is(errRead, io.EOF) {
					break
				}
				if errRead != nil && !errors.Is(errRead, io.ErrUnexpectedEOF) {
					err = fmt.Errorf("reading tile: %w", errRead)
					break
				}
				window = wider[:len(window)+n]
				rest = window
				leaf, err = readTileLeaf(&rest)
			}
			if err == nil && leaf.index != index {
				err = fmt.Errorf("it says that it is entry %d", leaf.index)
			}
			if err != nil {
				yield(nil, fmt.Errorf("entry %d: %w", index, err))
				return
			}
			leaf.size = len(window) - len(rest)
			window = rest
			if !yield(leaf, nil) {
				return
			}
		}
	}
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
	return append([]byte{versionV1, leafTypeTimestampedEntry}, l.timestamped...)
}

func (l *tileLeaf) hash() []byte { return rfc6962.DefaultHasher.HashLeaf(l.merkleTreeLeaf()) }

// fingerprints returns the hashes of the chain's certificates, the issuer first.
func (l *tileLeaf) fingerprints() [][sha256.Size]byte {
	all := make([][sha256.Size]byte, 0, len(l.issuers)/sha256.Size)
	for rest := l.issuers; len(rest) >= sha256.Size; rest = rest[sha256.Size:] {
		all = append(all, [sha256.Size]byte(rest))
	}
	return all
}

// extraData returns the extra_data of get-entries.
//
//	opaque ASN.1Cert<1..2^24-1>;               RFC 6962, section 3.1
//	struct {
//	    ASN.1Cert leaf_certificate;            (not part of extra_data, section 4.6)
//	    ASN.1Cert certificate_chain<0..2^24-1>;
//	} X509ChainEntry;
//	struct {
//	    ASN.1Cert pre_certificate;
//	    ASN.1Cert precertificate_chain<0..2^24-1>;
//	} PrecertChainEntry;
func (l *tileLeaf) extraData(issuer func([sha256.Size]byte) ([]byte, error)) ([]byte, error) {
	b := cryptobyte.NewBuilder(nil)
	if l.precert {
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(l.certificate) })
	}
	var chain [][]byte
	for _, fingerprint := range l.fingerprints() {
		der, err := issuer(fingerprint)
		if err != nil {
			return nil, err
		}
		chain = append(chain, der)
	}
	b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, der := range chain {
			b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(der) })
		}
	})
	return b.Bytes()
}
