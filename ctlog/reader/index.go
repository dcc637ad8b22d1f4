// SPDX-License-Identifier: Apache-2.0

package reader

import (
	"bytes"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/certs"
)

const (
	// Segment is how many entries a file of an Index is for.
	Segment = segmentBatches * Batch
	// SegmentLevel is the level of the tree whose nodes have Segment entries.
	SegmentLevel   = 12
	segmentBatches = 16
	// MaxIndexFile bounds a file of an Index. An ordinary one has 150 to 500 KiB.
	MaxIndexFile = 4 << 20
	indexMagic   = "mayfly search index 1\n"
)

// Index keeps, for the full segments of a log, what a Query is about. It only decides which batches a search
// need not read: every certificate that the search yields comes from the log's entries. A search reads a segment
// without a valid file completely, and then writes its file. A segment never changes, and neither does its file.
type Index struct {
	// Read returns the file of a segment; any error if there is none.
	Read func(segment uint64) ([]byte, error)
	// Write stores the file of a segment. A file that is lost or cut short costs only time.
	Write func(segment uint64, content []byte) error
	// Node returns the hash that the tree has for the entries of a segment.
	Node func(segment uint64) ([]byte, error)
}

// segment is a part of the log that a search reads: from first to before end.
type segment struct {
	first, end uint64
	index      *Index // that lacks the segment's file; nil if the search writes none
	node       []byte
	hashes     *[Segment][]byte        // of the entries that were read
	texts      *[segmentBatches][]byte // of each batch; nil if all must be read
}

// open returns the part of the log before end.
func (s *Source) open(q *Query, end uint64) *segment {
	if s.Index == nil || q.Identity == "" && q.Issuer == "" && len(q.Serial) == 0 {
		return &segment{end: end}
	}
	number := (end - 1) / Segment
	part := &segment{first: number * Segment, end: end}
	if end-part.first < Segment {
		return part
	}
	var err error
	if part.node, err = s.Index.Node(number); err != nil {
		return part // the log is damaged
	}
	content, err := s.Index.Read(number)
	if err == nil {
		part.texts, err = parseIndex(content, part.node)
	}
	if err != nil {
		part.index, part.hashes, part.texts = s.Index, new([Segment][]byte), new([segmentBatches][]byte)
	}
	return part
}

// skips reports whether the index excludes the batch that begins at first. With Since, the newest batch is
// read: it shows where the log is older.
func (p *segment) skips(q *Query, first uint64) bool {
	return p.texts != nil && p.index == nil && (q.Since.IsZero() || first+Batch < p.end) && !q.mayMatch(p.texts[first%Segment/Batch])
}

// collect prepares the segment's file.
func (p *segment) collect(entries []*Entry) {
	if p.index == nil {
		return
	}
	known := map[string]bool{}
	for _, entry := range entries {
		at := entry.Index % Segment
		p.hashes[at] = entry.Hash()
		for _, text := range searched(entry.Certificate) {
			if !known[string(text)] {
				known[string(text)] = true
				p.texts[at/Batch] = append(p.texts[at/Batch], text...)
			}
		}
	}
}

// store writes the file of a segment that was read completely. It refuses entries that are not those of the tree.
func (p *segment) store() error {
	if p.index == nil {
		return nil
	}
	tree := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for _, hash := range p.hashes {
		_ = tree.Append(hash, nil)
	}
	if root, _ := tree.GetRootHash(nil); !bytes.Equal(root, p.node) {
		return fmt.Errorf("the entries from %d to %d are not those of the log's tree; mayfly ctlog fsck shows more", p.first, p.end-1)
	}
	content := marshalIndex(p.node, p.texts)
	if len(content) > MaxIndexFile {
		return nil // certificates of another kind; the segment is always read
	}
	return p.index.Write(p.first/Segment, content)
}

// marshalIndex returns the file of a segment:
//
//	magic; node [32]byte; 16 times { uint32 length; texts }; CRC-32C of all before
func marshalIndex(node []byte, texts *[segmentBatches][]byte) []byte {
	content := append([]byte(indexMagic), node...)
	for _, text := range texts {
		content = binary.BigEndian.AppendUint32(content, uint32(len(text)))
		content = append(content, text...)
	}
	return binary.BigEndian.AppendUint32(content, checksum(content))
}

func checksum(content []byte) uint32 {
	return crc32.Checksum(content, crc32.MakeTable(crc32.Castagnoli))
}

// parseIndex reads what marshalIndex returns for the node, and nothing else.
func parseIndex(content, node []byte) (*[segmentBatches][]byte, error) {
	rest, ok := bytes.CutPrefix(content, append([]byte(indexMagic), node...))
	if !ok {
		return nil, errors.New("it is the index of another tree")
	}
	texts := new([segmentBatches][]byte)
	for i := range texts {
		if len(rest) < 4 || uint64(len(rest)-4) < uint64(binary.BigEndian.Uint32(rest)) {
			return nil, errors.New("it ends early")
		}
		length := int(binary.BigEndian.Uint32(rest))
		texts[i], rest = rest[4:4+length], rest[4+length:]
	}
	if len(rest) != 4 || binary.BigEndian.Uint32(rest) != checksum(content[:len(content)-4]) {
		return nil, errors.New("its checksum is wrong")
	}
	return texts, nil
}

// searched returns the parts of a certificate that hold what Query.matches compares: the serial number, the name
// and the issuer URLs. For what it cannot read, it returns everything.
func searched(certificate []byte) (texts [][]byte) {
	var tbs, serial, extensions cryptobyte.String
	in := cryptobyte.String(certificate)
	ok := in.ReadASN1(&in, der.SEQUENCE) && in.ReadASN1(&tbs, der.SEQUENCE) &&
		tbs.SkipOptionalASN1(der.Tag(0).Constructed().ContextSpecific()) && tbs.ReadASN1(&serial, der.INTEGER)
	for range 5 { // signature, issuer, validity, subject, subjectPublicKeyInfo (RFC 5280, section 4.1)
		ok = ok && tbs.SkipASN1(der.SEQUENCE)
	}
	ok = ok && tbs.SkipOptionalASN1(der.Tag(1).ContextSpecific()) && tbs.SkipOptionalASN1(der.Tag(2).ContextSpecific()) &&
		tbs.ReadASN1(&extensions, der.Tag(3).Constructed().ContextSpecific()) && extensions.ReadASN1(&extensions, der.SEQUENCE)
	texts = append(texts, serial)
	for ok && !extensions.Empty() {
		var extension, value cryptobyte.String
		var id asn1.ObjectIdentifier
		ok = extensions.ReadASN1(&extension, der.SEQUENCE) && extension.ReadASN1ObjectIdentifier(&id) &&
			extension.SkipOptionalASN1(der.BOOLEAN) && extension.ReadASN1(&value, der.OCTET_STRING)
		last := len(id) - 1
		isIssuer := ok && slices.Equal(id[:last], certs.OIDSigstore) && (id[last] == int(certs.IssuerV1) || id[last] == int(certs.IssuerV2))
		if isIssuer || id.Equal(certs.OIDSubjectAltName) {
			texts = append(texts, value)
		}
	}
	if !ok {
		return [][]byte{certificate}
	}
	return texts
}
