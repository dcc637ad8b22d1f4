// SPDX-License-Identifier: Apache-2.0

package testlog

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
)

const (
	// maxChain bounds the certificates of a submission, the leaf included.
	maxChain   = 8
	maxRequest = 256 << 10
)

// Fail passes every request to f first; where f returns true, f has answered. nil turns that
// off. Down and Hang are ready-made.
func (l *Log) Fail(f func(http.ResponseWriter, *http.Request) bool) { l.fail.Store(&f) }

// Alter lets f change every answer to add-chain and add-pre-chain, after the entry has been
// integrated. nil turns that off.
func (l *Log) Alter(f func(*ct.AddChainResponse)) { l.alter.Store(&f) }

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
	if fail := l.fail.Load(); fail != nil && *fail != nil && (*fail)(w, r) {
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	var answer any
	var err error
	switch r.Method + " " + r.URL.Path {
	case "POST " + ct.AddChainPath:
		answer, err = l.addChain(ct.X509LogEntryType, r)
	case "POST " + ct.AddPreChainPath:
		answer, err = l.addChain(ct.PrecertLogEntryType, r)
	case "GET " + ct.GetSTHPath:
		answer, err = l.getSTH()
	case "GET " + ct.GetRootsPath:
		answer = l.getRoots()
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// addChain is RFC 6962, sections 4.1 and 4.2.
func (l *Log) addChain(entryType ct.LogEntryType, r *http.Request) (*ct.AddChainResponse, error) {
	var req ct.AddChainRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return nil, fmt.Errorf("parsing request: %w", err)
	}
	leaf, chain, err := l.check(entryType, req.Chain)
	if err != nil {
		return nil, err
	}
	sct, err := l.once(leaf, chain)
	if err != nil {
		return nil, err
	}
	signature, err := cttls.Marshal(sct.Signature)
	resp := &ct.AddChainResponse{
		SCTVersion: sct.SCTVersion, ID: sct.LogID.KeyID[:], Timestamp: sct.Timestamp,
		Extensions: base64.StdEncoding.EncodeToString(sct.Extensions), Signature: signature,
	}
	if alter := l.alter.Load(); alter != nil && *alter != nil {
		(*alter)(resp)
	}
	return resp, err
}

// check validates a chain by RFC 6962, section 3.1: each certificate certifies the one before
// it, and the last is a root or certified by one. It returns the chain with the root.
func (l *Log) check(entryType ct.LogEntryType, ders [][]byte) (*ct.TimestampedEntry, [][]byte, error) {
	if len(ders) == 0 || len(ders) > maxChain {
		return nil, nil, fmt.Errorf("the chain has %d certificates; 1 to %d are accepted", len(ders), maxChain)
	}
	certificates, err := x509.ParseCertificates(slices.Concat(ders...))
	if err != nil || len(certificates) != len(ders) {
		return nil, nil, fmt.Errorf("the chain is not one of certificates: %w", err)
	}
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		CurrentTime: certificates[0].NotBefore, // a log accepts what has expired
	}
	l.mu.RLock()
	for _, root := range l.roots {
		options.Roots.AddCert(root)
	}
	l.mu.RUnlock()
	for _, issuer := range certificates[1:] {
		options.Intermediates.AddCert(issuer)
	}
	verified := *certificates[0]
	verified.UnhandledCriticalExtensions = nil // the poison is one
	chains, err := verified.Verify(options)
	if err != nil {
		return nil, nil, err
	}
	at := slices.IndexFunc(chains, func(chain []*x509.Certificate) bool {
		submitted := chain[:min(len(chain), len(certificates))]
		return len(chain) > 1 && len(chain) <= len(certificates)+1 && slices.EqualFunc(submitted, certificates, (*x509.Certificate).Equal)
	})
	if at < 0 {
		return nil, nil, errors.New("the chain is out of order, or a root alone")
	}
	var chain [][]byte
	for _, c := range chains[at] {
		chain = append(chain, c.Raw)
	}
	leaf, err := ct.MerkleTreeLeafFromRawChain(asn1Certs(chain), ct.PrecertLogEntryType, 0)
	if (err == nil) != (entryType == ct.PrecertLogEntryType) {
		return nil, nil, errors.New("add-pre-chain takes precertificates, and add-chain takes certificates")
	}
	if err != nil {
		leaf, err = ct.MerkleTreeLeafFromRawChain(asn1Certs(chain), entryType, 0)
	}
	if err != nil {
		return nil, nil, err
	}
	return leaf.TimestampedEntry, chain, nil
}

// getSTH is RFC 6962, section 4.3. The tree head is current: the log has no merge delay.
func (l *Log) getSTH() (*ct.GetSTHResponse, error) {
	l.mu.RLock()
	head := ct.SignedTreeHead{Version: ct.V1, TreeSize: l.tree.Size(), Timestamp: uint64(l.now().UnixMilli()), SHA256RootHash: ct.SHA256Hash(l.tree.Hash())}
	l.mu.RUnlock()
	input, err := ct.SerializeSTHSignatureInput(head)
	if err != nil {
		return nil, err
	}
	signed, err := l.sign(input)
	if err != nil {
		return nil, err
	}
	signature, err := cttls.Marshal(signed)
	return &ct.GetSTHResponse{TreeSize: head.TreeSize, Timestamp: head.Timestamp, SHA256RootHash: head.SHA256RootHash[:], TreeHeadSignature: signature}, err
}

// getRoots is RFC 6962, section 4.7.
func (l *Log) getRoots() ct.GetRootsResponse {
	l.mu.RLock()
	defer l.mu.RUnlock()
	resp := ct.GetRootsResponse{Certificates: []string{}}
	for _, root := range l.roots {
		resp.Certificates = append(resp.Certificates, base64.StdEncoding.EncodeToString(root.Raw))
	}
	return resp
}
