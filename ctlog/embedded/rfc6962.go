// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	"github.com/transparency-dev/merkle/proof"

	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

// maxAnswer bounds an answer to get-entries, in bytes, which may have fewer entries than requested
// (RFC 6962, section 4.6). Some monitors do not ask for the others, so it has room for some 600
// ordinary entries. A single entry is smaller.
const maxAnswer = 4 << 20

// question reads two decimal query parameters, which must be in the given range of the published
// checkpoint.
func (l *Log) question(r *http.Request, first, second string, inRange func(a, b, size uint64) bool) (a, b uint64, c *reader.Checkpoint, err error) {
	var numbers [2]uint64
	for i, name := range []string{first, second} {
		values := r.URL.Query()[name]
		if len(values) != 1 {
			return 0, 0, nil, refuse(http.StatusBadRequest, "the parameter %s is needed once", name)
		}
		if numbers[i], err = strconv.ParseUint(values[0], 10, 63); err != nil {
			return 0, 0, nil, refuse(http.StatusBadRequest, "the parameter %s is %.40q; it should be a decimal number", name, values[0])
		}
	}
	if c, err = l.checkpoint(); err != nil {
		return 0, 0, nil, err
	}
	if a, b = numbers[0], numbers[1]; !inRange(a, b, c.Head.Size) {
		return 0, 0, nil, refuse(http.StatusBadRequest, "%s=%d and %s=%d are out of order or out of range; the newest signed tree has %d entries, and the first is 0", first, a, second, b, c.Head.Size)
	}
	return a, b, c, nil
}

// getSTH serves the checkpoint in the form of RFC 6962, section 4.3. Both share one
// signature.
func (l *Log) getSTH(w http.ResponseWriter, r *http.Request) error {
	c, err := l.checkpoint()
	if err != nil {
		return err
	}
	return answerJSON(w, r, mutable, ct.GetSTHResponse{
		TreeSize: c.Head.Size, Timestamp: c.Timestamp,
		SHA256RootHash: c.Head.Root[:], TreeHeadSignature: c.Signed,
	})
}

// getEntries is RFC 6962, section 4.6. It sends entries while it reads them, so that an answer holds
// one entry in memory, even for a slow client. At a damaged entry it ends the answer early; a
// request that starts at the damaged entry then gets the error.
func (l *Log) getEntries(w http.ResponseWriter, r *http.Request) error {
	start, end, c, err := l.question(r, "start", "end", func(start, end, size uint64) bool { return start <= end && start < size })
	if err != nil {
		return err
	}
	sent := 0
	for leaf, err := range l.directory.entries(start, end+1, c.Head.Size) {
		var entry *ct.LeafEntry
		if err == nil {
			entry, err = leafEntry(leaf, l.issuers)
		}
		var body []byte
		if err == nil {
			body, err = json.Marshal(entry)
		}
		if err != nil && sent == 0 {
			return err
		}
		if err != nil || sent > 0 && sent+len(body) > maxAnswer {
			break
		}
		opening := ","
		if sent == 0 {
			setHeader(w, "application/json", mutable)
			opening = `{"entries":[`
		}
		if r.Method == http.MethodHead {
			return nil
		}
		if _, err := w.Write(append([]byte(opening), body...)); err != nil {
			return nil // the client's
		}
		sent += len(body)
	}
	_, _ = io.WriteString(w, "]}\n")
	return nil
}

// getConsistency is RFC 6962, section 4.4.
func (l *Log) getConsistency(w http.ResponseWriter, r *http.Request) error {
	first, second, c, err := l.question(r, "first", "second", func(first, second, size uint64) bool { return first <= second && second <= size })
	if err != nil {
		return err
	}
	answer := ct.GetSTHConsistencyResponse{Consistency: [][]byte{}}
	if first > 0 && first < second {
		nodes, err := proof.Consistency(first, second)
		if err == nil {
			answer.Consistency, err = l.directory.proof(nodes, c.Head.Size, &l.kept)
		}
		if err != nil {
			return err
		}
	}
	return answerJSON(w, r, immutable, answer)
}

// getEntryAndProof is RFC 6962, section 4.8. Clients use it with the leaf_index of an SCT.
func (l *Log) getEntryAndProof(w http.ResponseWriter, r *http.Request) error {
	index, size, c, err := l.question(r, "leaf_index", "tree_size", func(index, size, most uint64) bool { return index < size && size <= most })
	if err != nil {
		return err
	}
	var entry *ct.LeafEntry
	for leaf, err := range l.directory.entries(index, index+1, c.Head.Size) {
		if err == nil {
			entry, err = leafEntry(leaf, l.issuers)
		}
		if err != nil {
			return err
		}
	}
	nodes, err := proof.Inclusion(index, size)
	if err != nil {
		return err
	}
	path, err := l.directory.proof(nodes, c.Head.Size, &l.kept)
	if err != nil {
		return err
	}
	return answerJSON(w, r, immutable, ct.GetEntryAndProofResponse{LeafInput: entry.LeafInput, ExtraData: entry.ExtraData, AuditPath: append([][]byte{}, path...)})
}

// getProofByHash is RFC 6962, section 4.5, which needs an index from leaf hashes to entries.
// Every SCT of this log names its entry, so that clients do not need that index.
func (*Log) getProofByHash(http.ResponseWriter, *http.Request) error {
	return refuse(http.StatusNotImplemented, "this log keeps no index of leaf hashes; the leaf_index extension of the SCT says which entry it is: use get-entry-and-proof?leaf_index=…&tree_size=…")
}

// leafEntry returns the entry as get-entries has it (RFC 6962, section 4.6).
func leafEntry(l *reader.Entry, issuers *issuers) (*ct.LeafEntry, error) {
	chain := make([]ct.ASN1Cert, 0, len(l.Issuers))
	for _, fingerprint := range l.Issuers {
		der, err := issuers.get(fingerprint)
		if err != nil {
			return nil, fmt.Errorf("the issuer %x of entry %d: %w", fingerprint, l.Index, err)
		}
		chain = append(chain, ct.ASN1Cert{Data: der})
	}
	var extra any = ct.CertificateChain{Entries: chain}
	if l.Precert {
		extra = ct.PrecertChainEntry{PreCertificate: ct.ASN1Cert{Data: l.Certificate}, CertificateChain: chain}
	}
	encoded, err := tls.Marshal(extra)
	return &ct.LeafEntry{LeafInput: l.MerkleTreeLeaf(), ExtraData: encoded}, err
}
