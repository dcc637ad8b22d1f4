// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	ct "github.com/google/certificate-transparency-go"
)

// maxAnswer bounds an answer to get-entries, in bytes, which may have fewer entries than requested
// (RFC 6962, section 4.6). Some monitors do not ask for the others, so it has room for some 600
// ordinary entries. A single entry is smaller.
const maxAnswer = 4 << 20

func answerJSON(w http.ResponseWriter, r *http.Request, caching string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding answer: %w", err)
	}
	content(w, r, "application/json", caching, append(body, '\n'))
	return nil
}

// number reads a decimal query parameter.
func number(query url.Values, name string) (uint64, error) {
	values := query[name]
	if len(values) != 1 {
		return 0, refuse(http.StatusBadRequest, "the parameter %s is needed once", name)
	}
	n, err := strconv.ParseUint(values[0], 10, 63)
	if err != nil {
		return 0, refuse(http.StatusBadRequest, "the parameter %s is %.40q; it should be a decimal number", name, values[0])
	}
	return n, nil
}

// getSTH serves the checkpoint in the form of RFC 6962, section 4.3. Both share one
// signature.
func (f *front) getSTH(w http.ResponseWriter, r *http.Request) error {
	c, err := f.checkpoint()
	if err != nil {
		return err
	}
	return answerJSON(w, r, mutable, ct.GetSTHResponse{
		TreeSize: c.head.size, Timestamp: c.timestamp,
		SHA256RootHash: c.head.root[:], TreeHeadSignature: c.signed,
	})
}

// getEntries is RFC 6962, section 4.6.
func (f *front) getEntries(w http.ResponseWriter, r *http.Request) error {
	start, err := number(r.URL.Query(), "start")
	if err != nil {
		return err
	}
	end, err := number(r.URL.Query(), "end")
	if err != nil {
		return err
	}
	c, err := f.checkpoint()
	switch {
	case err != nil:
		return err
	case start > end:
		return refuse(http.StatusBadRequest, "start is %d and end %d; end is the last entry wanted, and not before start", start, end)
	case start >= c.head.size:
		return refuse(http.StatusBadRequest, "start is %d, and the log has %d entries; the first is 0", start, c.head.size)
	}
	return f.sendEntries(w, r, start, end, c.head.size)
}

// sendEntries sends entries while it reads them, so that an answer holds one entry in memory,
// even for a slow client. At a damaged entry it ends the answer early; a request that starts at
// the damaged entry then gets the error.
func (f *front) sendEntries(w http.ResponseWriter, r *http.Request, start, end, size uint64) error {
	h := w.Header()
	out := bufio.NewWriterSize(w, 4<<10)
	sent := 0
	for leaf, err := range f.log.directory.entriesFrom(start, size) {
		var extra []byte
		if err == nil {
			extra, err = leaf.extraData(f.log.issuers.get)
		}
		if err != nil && sent == 0 {
			return fmt.Errorf("entry %d: %w", start, err)
		}
		if err != nil {
			break
		}
		input := leaf.merkleTreeLeaf()
		length := base64.StdEncoding.EncodedLen(len(input)) + base64.StdEncoding.EncodedLen(len(extra)) + len(`,{"leaf_input":"","extra_data":""}`)
		if sent > 0 && sent+length > maxAnswer {
			break
		}
		opening := `,{"leaf_input":"`
		if sent == 0 {
			h.Set("Content-Type", "application/json")
			h.Set("Cache-Control", mutable)
			h.Set("X-Content-Type-Options", "nosniff")
			opening = `{"entries":[{"leaf_input":"`
		}
		if r.Method == http.MethodHead {
			return nil
		}
		writeBase64(out, opening, input)
		writeBase64(out, `","extra_data":"`, extra)
		// After an error of the client every write returns that error.
		if _, err := out.WriteString(`"}`); err != nil {
			return nil
		}
		if sent += length; leaf.index == end {
			break
		}
	}
	_, _ = out.WriteString("]}\n")
	_ = out.Flush()
	return nil
}

func writeBase64(w *bufio.Writer, before string, data []byte) {
	_, _ = w.WriteString(before)
	encoder := base64.NewEncoder(base64.StdEncoding, w)
	_, _ = encoder.Write(data)
	_ = encoder.Close()
}

// getConsistency is RFC 6962, section 4.4.
func (f *front) getConsistency(w http.ResponseWriter, r *http.Request) error {
	first, err := number(r.URL.Query(), "first")
	if err != nil {
		return err
	}
	second, err := number(r.URL.Query(), "second")
	if err != nil {
		return err
	}
	c, err := f.checkpoint()
	switch {
	case err != nil:
		return err
	case first > second:
		return refuse(http.StatusBadRequest, "first is %d and second %d; the second tree should not be smaller", first, second)
	case second > c.head.size:
		return refuse(http.StatusBadRequest, "second is %d, and the newest signed tree has %d entries", second, c.head.size)
	}
	answer := ct.GetSTHConsistencyResponse{Consistency: [][]byte{}}
	if first > 0 && first < second {
		builder, tiles, err := f.log.directory.proofs(r.Context(), c.head.size)
		if err != nil {
			return err
		}
		if answer.Consistency, err = builder.ConsistencyProof(r.Context(), first, second); err != nil {
			return tiles.explain(err)
		}
	}
	return answerJSON(w, r, immutable, answer)
}

// getEntryAndProof is RFC 6962, section 4.8. Clients use it with the leaf_index of an SCT.
func (f *front) getEntryAndProof(w http.ResponseWriter, r *http.Request) error {
	index, err := number(r.URL.Query(), "leaf_index")
	if err != nil {
		return err
	}
	size, err := number(r.URL.Query(), "tree_size")
	if err != nil {
		return err
	}
	c, err := f.checkpoint()
	switch {
	case err != nil:
		return err
	case index >= size:
		return refuse(http.StatusBadRequest, "leaf_index is %d and tree_size %d; the last entry of a tree is one less than its size", index, size)
	case size > c.head.size:
		return refuse(http.StatusBadRequest, "tree_size is %d, and the newest signed tree has %d entries", size, c.head.size)
	}
	var leaf *tileLeaf
	for leaf, err = range f.log.directory.entriesFrom(index, c.head.size) {
		if err != nil {
			return err
		}
		break
	}
	extra, err := leaf.extraData(f.log.issuers.get)
	if err != nil {
		return fmt.Errorf("entry %d: %w", index, err)
	}
	// The builder's own tree is the proof's; the tiles are the newest.
	builder, tiles, err := f.log.directory.proofsFor(r.Context(), size, c.head.size)
	if err != nil {
		return err
	}
	path, err := builder.InclusionProof(r.Context(), index)
	if err != nil {
		return tiles.explain(err)
	}
	if path == nil {
		path = [][]byte{}
	}
	return answerJSON(w, r, immutable, ct.GetEntryAndProofResponse{LeafInput: leaf.merkleTreeLeaf(), ExtraData: extra, AuditPath: path})
}

// getProofByHash is RFC 6962, section 4.5, which needs an index from leaf hashes to entries.
// Every SCT of this log names its entry, so that clients do not need that index.
func (*front) getProofByHash(http.ResponseWriter, *http.Request) error {
	return refuse(http.StatusNotImplemented, "this log keeps no index of leaf hashes; the leaf_index extension of the SCT says which entry it is: use get-entry-and-proof?leaf_index=…&tree_size=…")
}
