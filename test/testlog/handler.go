// SPDX-License-Identifier: Apache-2.0

package testlog

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
)

const (
	maxRequest = 256 << 10
	maxEntries = 256 // of one get-entries
)

// Fail passes every request to f first; where f returns true, f has answered. nil turns that
// off. Down and Hang are ready-made.
func (l *Log) Fail(f func(http.ResponseWriter, *http.Request) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = f
}

// Alter lets f change every answer to add-chain and add-pre-chain, after the entry has been
// integrated. nil turns that off.
func (l *Log) Alter(f func(*ct.AddChainResponse)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alter = f
}

// Down is a Fail that answers every request with status and an empty body.
func Down(status int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(status)
		return true
	}
}

// Hang is a Fail that holds every request until its client disconnects.
func Hang(_ http.ResponseWriter, r *http.Request) bool {
	// net/http notices a disconnect only once the body has been read.
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
	return true
}

// ServeHTTP serves RFC 6962, section 4.
func (l *Log) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.RLock()
	fail := l.fail
	l.mu.RUnlock()
	if fail != nil && fail(w, r) {
		return
	}
	l.mux.ServeHTTP(w, r)
}

func (l *Log) routes() *http.ServeMux {
	mux := http.NewServeMux()
	handle := func(pattern string, answer func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
			resp, err := answer(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(resp)
		})
	}
	get := func(path string, answer func(url.Values) (any, error)) {
		handle("GET "+path, func(r *http.Request) (any, error) { return answer(r.URL.Query()) })
	}
	handle("POST "+ct.AddChainPath, func(r *http.Request) (any, error) { return l.addChain(ct.X509LogEntryType, r) })
	handle("POST "+ct.AddPreChainPath, func(r *http.Request) (any, error) { return l.addChain(ct.PrecertLogEntryType, r) })
	get(ct.GetSTHPath, l.getSTH)
	get(ct.GetSTHConsistencyPath, l.getSTHConsistency)
	get(ct.GetProofByHashPath, l.getProofByHash)
	get(ct.GetEntriesPath, l.getEntries)
	get(ct.GetRootsPath, l.getRoots)
	get(ct.GetEntryAndProofPath, l.getEntryAndProof)
	return mux
}

// addChain is RFC 6962, sections 4.1 and 4.2.
func (l *Log) addChain(entryType ct.LogEntryType, r *http.Request) (any, error) {
	var req ct.AddChainRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return nil, fmt.Errorf("parsing request: %w", err)
	}
	s, err := l.check(entryType, req.Chain)
	if err != nil {
		return nil, err
	}
	sct, err := l.once(s)
	if err != nil {
		return nil, err
	}
	signature, err := cttls.Marshal(sct.Signature)
	if err != nil {
		return nil, fmt.Errorf("serializing signature: %w", err)
	}
	resp := &ct.AddChainResponse{
		SCTVersion: sct.SCTVersion, ID: sct.LogID.KeyID[:], Timestamp: sct.Timestamp,
		Extensions: base64.StdEncoding.EncodeToString(sct.Extensions), Signature: signature,
	}
	l.mu.RLock()
	alter := l.alter
	l.mu.RUnlock()
	if alter != nil {
		alter(resp)
	}
	return resp, nil
}

// getSTH is RFC 6962, section 4.3. The tree head is current: the log has no merge delay.
func (l *Log) getSTH(url.Values) (any, error) {
	l.mu.RLock()
	size, root := l.tree.Size(), l.tree.Hash()
	timestamp := uint64(l.now().UnixMilli())
	l.mu.RUnlock()
	input, err := ct.SerializeSTHSignatureInput(ct.SignedTreeHead{
		Version: ct.V1, TreeSize: size, Timestamp: timestamp, SHA256RootHash: ct.SHA256Hash(root),
	})
	if err != nil {
		return nil, fmt.Errorf("serializing tree head: %w", err)
	}
	signed, err := l.sign(input)
	if err != nil {
		return nil, err
	}
	signature, err := cttls.Marshal(signed)
	if err != nil {
		return nil, fmt.Errorf("serializing signature: %w", err)
	}
	return ct.GetSTHResponse{TreeSize: size, Timestamp: timestamp, SHA256RootHash: root, TreeHeadSignature: signature}, nil
}

// getSTHConsistency is RFC 6962, section 4.4.
func (l *Log) getSTHConsistency(q url.Values) (any, error) {
	first, err1 := number(q, "first")
	second, err2 := number(q, "second")
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	if first > second || second > l.tree.Size() {
		return nil, fmt.Errorf("first %d and second %d are not in order within the tree's %d", first, second, l.tree.Size())
	}
	proof, err := l.tree.ConsistencyProof(first, second)
	if err != nil {
		return nil, err
	}
	return ct.GetSTHConsistencyResponse{Consistency: notNil(proof)}, nil
}

// getProofByHash is RFC 6962, section 4.5.
func (l *Log) getProofByHash(q url.Values) (any, error) {
	size, err := number(q, "tree_size")
	if err != nil {
		return nil, err
	}
	hash, err := base64.StdEncoding.DecodeString(q.Get("hash"))
	if err != nil || len(hash) != sha256.Size {
		return nil, errors.New("hash is not the base64 of 32 bytes")
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	index, ok := l.byLeaf[[sha256.Size]byte(hash)]
	if !ok {
		return nil, errors.New("no entry has this leaf hash")
	}
	proof, err := l.inclusion(index, size)
	if err != nil {
		return nil, err
	}
	return ct.GetProofByHashResponse{LeafIndex: int64(index), AuditPath: proof}, nil
}

// inclusion requires the lock.
func (l *Log) inclusion(index, size uint64) ([][]byte, error) {
	if index >= size || size > l.tree.Size() {
		return nil, fmt.Errorf("no entry %d in a tree of %d; the tree has %d", index, size, l.tree.Size())
	}
	proof, err := l.tree.InclusionProof(index, size)
	return notNil(proof), err
}

// getEntries is RFC 6962, section 4.6. It returns fewer entries than requested where there are
// fewer, or more than 256 are requested.
func (l *Log) getEntries(q url.Values) (any, error) {
	start, err1 := number(q, "start")
	end, err2 := number(q, "end")
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	size := uint64(len(l.entries))
	if start > end || start >= size {
		return nil, fmt.Errorf("start %d and end %d are not in order within the tree's %d", start, end, size)
	}
	end = min(end, size-1, start+maxEntries-1)
	return ct.GetEntriesResponse{Entries: l.entries[start : end+1 : end+1]}, nil
}

// getRoots is RFC 6962, section 4.7.
func (l *Log) getRoots(url.Values) (any, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	resp := ct.GetRootsResponse{Certificates: []string{}}
	for _, root := range l.roots {
		resp.Certificates = append(resp.Certificates, base64.StdEncoding.EncodeToString(root.Raw))
	}
	return resp, nil
}

// getEntryAndProof is RFC 6962, section 4.8.
func (l *Log) getEntryAndProof(q url.Values) (any, error) {
	index, err1 := number(q, "leaf_index")
	size, err2 := number(q, "tree_size")
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	proof, err := l.inclusion(index, size)
	if err != nil {
		return nil, err
	}
	entry := l.entries[index]
	return ct.GetEntryAndProofResponse{LeafInput: entry.LeafInput, ExtraData: entry.ExtraData, AuditPath: proof}, nil
}

func number(q url.Values, name string) (uint64, error) {
	n, err := strconv.ParseUint(q.Get(name), 10, 62)
	if err != nil {
		return 0, fmt.Errorf("%s is not a whole number: %w", name, err)
	}
	return n, nil
}

// notNil makes JSON encode no hashes as [] instead of null.
func notNil(hashes [][]byte) [][]byte {
	if hashes == nil {
		return [][]byte{}
	}
	return hashes
}
