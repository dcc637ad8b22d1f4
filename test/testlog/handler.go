// SPDX-License-Identifier: Apache-2.0

package testlog

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
)

const maxRequest = 256 << 10

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

// ServeHTTP serves add-chain, add-pre-chain, get-sth and get-roots (RFC 6962, section 4).
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
	for pattern, answer := range map[string]func(*http.Request) (any, error){
		"POST " + ct.AddChainPath:    func(r *http.Request) (any, error) { return l.addChain(ct.X509LogEntryType, r) },
		"POST " + ct.AddPreChainPath: func(r *http.Request) (any, error) { return l.addChain(ct.PrecertLogEntryType, r) },
		"GET " + ct.GetSTHPath:       l.getSTH,
		"GET " + ct.GetRootsPath:     l.getRoots,
	} {
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
	sct, err := l.once(s, false)
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
func (l *Log) getSTH(*http.Request) (any, error) {
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

// getRoots is RFC 6962, section 4.7.
func (l *Log) getRoots(*http.Request) (any, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	resp := ct.GetRootsResponse{Certificates: []string{}}
	for _, root := range l.roots {
		resp.Certificates = append(resp.Certificates, base64.StdEncoding.EncodeToString(root.Raw))
	}
	return resp, nil
}
