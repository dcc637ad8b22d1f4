// SPDX-License-Identifier: Apache-2.0

// Package testlog is an RFC 6962 log in memory. It uses only certificate-transparency-go and
// transparency-dev/merkle, so that it shares no encoding with package ctlog, which it tests.
// It forgets everything when the process ends and integrates an entry at once, so that every
// SCT can be traced to its tree head.
//
// Tests, benchmarks and the demo may import it; packages that serve must not.
package testlog

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	"github.com/transparency-dev/merkle/rfc6962"
	merkle "github.com/transparency-dev/merkle/testonly"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// Config is a log.
type Config struct {
	// Name is the result of (*Log).Name; "" for "testlog".
	Name string
	// Roots are the trust anchors that a submitted chain may end in; AddRoot adds to them.
	Roots []*x509.Certificate
	// Now is the clock of SCTs and tree heads; nil for time.Now.
	Now func() time.Time
	// LeafIndex gives SCTs the leaf_index extension, as static-ct-api logs do.
	LeafIndex bool
	// Unchecked makes Submit use the submission's own TBS and issuer key hash, without
	// checking its chain or for repetitions: for benchmarks of the code before the log.
	// Requests over HTTP are always checked.
	Unchecked bool
}

// Log is the log. It is safe for concurrent use, an http.Handler for its API under /ct/v1/,
// and a ctlog.Log that is called directly.
type Log struct {
	name      string
	key       *ecdsa.PrivateKey
	spki      []byte
	id        [sha256.Size]byte
	now       func() time.Time
	leafIndex bool
	unchecked bool
	mux       *http.ServeMux

	mu       sync.RWMutex // guards the fields below
	roots    []*x509.Certificate
	fail     func(http.ResponseWriter, *http.Request) bool
	alter    func(*ct.AddChainResponse)
	tree     *merkle.Tree
	entries  []ct.LeafEntry
	scts     map[[sha256.Size]byte]*ct.SignedCertificateTimestamp // by hash of type and certificate
	issuedBy map[[sha256.Size]byte][]*x509.Certificate            // verified issuing chains, by hash
}

// New returns an empty log.
func New(cfg Config) (*Log, error) {
	l := &Log{
		name: cfg.Name, now: cfg.Now, leafIndex: cfg.LeafIndex, unchecked: cfg.Unchecked,
		roots:    append([]*x509.Certificate(nil), cfg.Roots...),
		tree:     merkle.New(rfc6962.DefaultHasher),
		scts:     make(map[[sha256.Size]byte]*ct.SignedCertificateTimestamp),
		issuedBy: make(map[[sha256.Size]byte][]*x509.Certificate),
	}
	if l.name == "" {
		l.name = "testlog"
	}
	if l.now == nil {
		l.now = time.Now
	}
	var err error
	if l.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("generating log key: %w", err)
	}
	if l.spki, err = x509.MarshalPKIXPublicKey(l.key.Public()); err != nil {
		return nil, fmt.Errorf("marshalling log key: %w", err)
	}
	l.id = sha256.Sum256(l.spki)
	l.mux = l.routes()
	return l, nil
}

// Name returns the log's name.
func (l *Log) Name() string { return l.name }

// PublicKeyPEM returns the log's public key as a PEM block of type PUBLIC KEY.
func (l *Log) PublicKeyPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: l.spki})
}

// AddRoot makes the log accept chains that end in root.
func (l *Log) AddRoot(root *x509.Certificate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.roots = append(l.roots, root)
}

// Size returns the number of entries.
func (l *Log) Size() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.entries)
}

// Entries returns every decoded entry in order, with the certificate as it was submitted.
func (l *Log) Entries() ([]ct.RawLogEntry, error) {
	l.mu.RLock()
	leaves := l.entries[:len(l.entries):len(l.entries)]
	l.mu.RUnlock()
	entries := make([]ct.RawLogEntry, 0, len(leaves))
	for i := range leaves {
		entry, err := ct.RawLogEntryFromLeaf(int64(i), &leaves[i])
		if err != nil {
			return nil, fmt.Errorf("decoding entry %d: %w", i, err)
		}
		entries = append(entries, *entry)
	}
	return entries, nil
}

// Submit adds the precertificate without HTTP. Unless the log is Unchecked, it computes the
// entry from the chain, as over HTTP, and refuses a submission with another TBS or issuer key
// hash. Fail and Alter do not affect it.
func (l *Log) Submit(ctx context.Context, sub ctlog.Submission) (ctlog.SCT, error) {
	if err := ctx.Err(); err != nil {
		return ctlog.SCT{}, err
	}
	s, err := submission{precert: &ct.PreCert{IssuerKeyHash: sub.IssuerKeyHash, TBSCertificate: sub.TBS}, chain: sub.Chain}, error(nil)
	if !l.unchecked {
		s, err = l.check(ct.PrecertLogEntryType, sub.Chain)
		if err == nil && (!bytes.Equal(s.precert.TBSCertificate, sub.TBS) || s.precert.IssuerKeyHash != sub.IssuerKeyHash) {
			err = errors.New("the submission's TBS or issuer key hash is not that of its chain")
		}
	}
	if err != nil {
		return ctlog.SCT{}, err
	}
	sct, err := l.once(s, l.unchecked)
	if err != nil {
		return ctlog.SCT{}, err
	}
	return ctlog.SCT{
		LogID: sct.LogID.KeyID, Timestamp: sct.Timestamp,
		Extensions: sct.Extensions, Signature: sct.Signature.Signature,
	}, nil
}

// once answers a repetition with the first SCT, unless again.
func (l *Log) once(s submission, again bool) (*ct.SignedCertificateTimestamp, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := sha256.Sum256(s.chain[0])
	if sct := l.scts[id]; sct != nil && !again {
		return sct, nil
	}
	sct, err := l.integrate(s)
	l.scts[id] = sct
	return sct, err
}

// integrate signs an SCT for s and adds s to the tree. The caller holds mu.
func (l *Log) integrate(s submission) (*ct.SignedCertificateTimestamp, error) {
	index := uint64(len(l.entries))
	entry := &ct.TimestampedEntry{Timestamp: uint64(l.now().UnixMilli())}
	var extra any
	issuers := make([]ct.ASN1Cert, 0, maxChain)
	for _, der := range s.chain[1:] {
		issuers = append(issuers, ct.ASN1Cert{Data: der})
	}
	if s.precert != nil {
		entry.EntryType, entry.PrecertEntry = ct.PrecertLogEntryType, s.precert
		extra = ct.PrecertChainEntry{PreCertificate: ct.ASN1Cert{Data: s.chain[0]}, CertificateChain: issuers}
	} else {
		entry.EntryType, entry.X509Entry = ct.X509LogEntryType, &ct.ASN1Cert{Data: s.chain[0]}
		extra = ct.CertificateChain{Entries: issuers}
	}
	if l.leafIndex {
		// Extension leaf_index: type 0, length 5, a 40-bit number (static-ct-api).
		entry.Extensions = append([]byte{0, 0, 5}, binary.BigEndian.AppendUint64(nil, index)[3:]...)
	}
	leaf := ct.MerkleTreeLeaf{Version: ct.V1, LeafType: ct.TimestampedEntryLeafType, TimestampedEntry: entry}
	sct := &ct.SignedCertificateTimestamp{
		SCTVersion: ct.V1, LogID: ct.LogID{KeyID: l.id}, Timestamp: entry.Timestamp, Extensions: entry.Extensions,
	}
	input, err := ct.SerializeSCTSignatureInput(*sct, ct.LogEntry{Leaf: leaf})
	if err != nil {
		return nil, fmt.Errorf("serializing entry: %w", err)
	}
	if sct.Signature, err = l.sign(input); err != nil {
		return nil, err
	}
	leafInput, err := cttls.Marshal(leaf)
	if err != nil {
		return nil, fmt.Errorf("serializing leaf: %w", err)
	}
	extraData, err := cttls.Marshal(extra)
	if err != nil {
		return nil, fmt.Errorf("serializing chain: %w", err)
	}
	l.tree.Append(rfc6962.DefaultHasher.HashLeaf(leafInput))
	l.entries = append(l.entries, ct.LeafEntry{LeafInput: leafInput, ExtraData: extraData})
	return sct, nil
}

// sign signs with ECDSA over SHA-256.
func (l *Log) sign(data []byte) (ct.DigitallySigned, error) {
	digest := sha256.Sum256(data)
	signature, err := ecdsa.SignASN1(rand.Reader, l.key, digest[:])
	if err != nil {
		return ct.DigitallySigned{}, fmt.Errorf("signing: %w", err)
	}
	return ct.DigitallySigned{
		Algorithm: cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA256, Signature: cttls.ECDSA},
		Signature: signature,
	}, nil
}
