// SPDX-License-Identifier: Apache-2.0

// Package testlog is an RFC 6962 log in memory. It uses only certificate-transparency-go and
// transparency-dev/merkle, so that it shares no encoding with package ctlog, which it tests.
// It forgets everything when the process ends and integrates an entry at once, so that every
// SCT can be traced to its tree head.
//
// Tests and benchmarks may import it.
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
	"slices"
	"sync"
	"sync/atomic"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/ctutil"
	cttls "github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"
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
	// Unchecked makes Submit use the submission's own TBS and issuer key hash, without
	// checking its chain or for repetitions: for benchmarks of the code before the log. A test
	// compares its entries with those of a checked log. Requests over HTTP are always checked.
	Unchecked bool
}

// Log is the log. It is safe for concurrent use, an http.Handler for its API under /ct/v1/,
// and a ctlog.Log that is called directly.
type Log struct {
	name      string
	key       *ecdsa.PrivateKey
	spki      []byte
	id        [sha256.Size]byte // the hash of spki
	now       func() time.Time
	unchecked bool
	fail      atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	alter     atomic.Pointer[func(*ct.AddChainResponse)]

	mu      sync.RWMutex // guards the fields below
	roots   []*x509.Certificate
	tree    *merkle.Tree
	entries []ct.LeafEntry
	scts    map[[sha256.Size]byte]*ct.SignedCertificateTimestamp // by hash of the certificate
}

// New returns an empty log.
func New(cfg Config) (*Log, error) {
	l := &Log{
		name: cfg.Name, now: cfg.Now, unchecked: cfg.Unchecked, roots: slices.Clone(cfg.Roots),
		tree: merkle.New(rfc6962.DefaultHasher), scts: make(map[[sha256.Size]byte]*ct.SignedCertificateTimestamp),
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
	l.spki, err = x509.MarshalPKIXPublicKey(l.key.Public())
	l.id = sha256.Sum256(l.spki)
	return l, err
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
	leaves := slices.Clip(l.entries)
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
	if l.unchecked {
		return l.submitUnchecked(sub)
	}
	entry, chain, err := l.check(ct.PrecertLogEntryType, sub.Chain)
	if err != nil {
		return ctlog.SCT{}, err
	}
	if !bytes.Equal(entry.PrecertEntry.TBSCertificate, sub.TBS) || entry.PrecertEntry.IssuerKeyHash != sub.IssuerKeyHash {
		return ctlog.SCT{}, errors.New("the submission's TBS or issuer key hash is not that of its chain")
	}
	sct, err := l.once(entry, chain)
	if err != nil {
		return ctlog.SCT{}, err
	}
	return ctlog.SCT{LogID: sct.LogID.KeyID, Timestamp: sct.Timestamp, Extensions: sct.Extensions, Signature: sct.Signature.Signature}, nil
}

// submitUnchecked encodes the entry by hand: the reflection of certificate-transparency-go takes as
// long as the signature.
func (l *Log) submitUnchecked(sub ctlog.Submission) (ctlog.SCT, error) {
	timestamp := uint64(l.now().UnixMilli())
	// MerkleTreeLeaf (RFC 6962, section 3.4) is equal to the signed data of an SCT (section 3.2): both
	// begin with a version and a type of zero.
	leaf := append(make([]byte, 0, 64+len(sub.TBS)), 0, 0)
	leaf = binary.BigEndian.AppendUint64(leaf, timestamp)
	leaf = append(append(leaf, 0, byte(ct.PrecertLogEntryType)), sub.IssuerKeyHash[:]...)
	leaf = append(appendVector(leaf, sub.TBS), 0, 0) // no extensions
	signature, err := l.sign(leaf)
	if err != nil {
		return ctlog.SCT{}, err
	}
	var chain []byte // PrecertChainEntry, section 3.1
	for _, der := range sub.Chain[1:] {
		chain = appendVector(chain, der)
	}
	extra := appendVector(appendVector(nil, sub.Chain[0]), chain)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tree.Append(rfc6962.DefaultHasher.HashLeaf(leaf))
	l.entries = append(l.entries, ct.LeafEntry{LeafInput: leaf, ExtraData: extra})
	return ctlog.SCT{LogID: l.id, Timestamp: timestamp, Signature: signature.Signature}, nil
}

// appendVector appends opaque<0..2^24-1>.
func appendVector(b, content []byte) []byte {
	n := len(content)
	return append(append(b, byte(n>>16), byte(n>>8), byte(n)), content...)
}

// once answers a repetition with the first SCT.
func (l *Log) once(entry *ct.TimestampedEntry, chain [][]byte) (sct *ct.SignedCertificateTimestamp, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := sha256.Sum256(chain[0])
	if sct = l.scts[id]; sct == nil {
		sct, err = l.integrate(entry, chain)
		l.scts[id] = sct
	}
	return sct, err
}

// integrate signs an SCT for an entry and adds the entry to the tree. The caller holds mu.
func (l *Log) integrate(entry *ct.TimestampedEntry, chain [][]byte) (*ct.SignedCertificateTimestamp, error) {
	entry.Timestamp = uint64(l.now().UnixMilli())
	leaf := ct.MerkleTreeLeaf{Version: ct.V1, LeafType: ct.TimestampedEntryLeafType, TimestampedEntry: entry}
	sct := &ct.SignedCertificateTimestamp{SCTVersion: ct.V1, LogID: ct.LogID{KeyID: l.id}, Timestamp: entry.Timestamp}
	input, err := ct.SerializeSCTSignatureInput(*sct, ct.LogEntry{Leaf: leaf})
	if err != nil {
		return nil, fmt.Errorf("serializing entry: %w", err)
	}
	if sct.Signature, err = l.sign(input); err != nil {
		return nil, err
	}
	var extra any = ct.CertificateChain{Entries: asn1Certs(chain[1:])}
	if entry.EntryType == ct.PrecertLogEntryType {
		extra = ct.PrecertChainEntry{PreCertificate: ct.ASN1Cert{Data: chain[0]}, CertificateChain: asn1Certs(chain[1:])}
	}
	leafInput, err := cttls.Marshal(leaf)
	extraData, errExtra := cttls.Marshal(extra)
	if err := errors.Join(err, errExtra); err != nil {
		return nil, fmt.Errorf("serializing entry: %w", err)
	}
	l.tree.Append(rfc6962.DefaultHasher.HashLeaf(leafInput))
	l.entries = append(l.entries, ct.LeafEntry{LeafInput: leafInput, ExtraData: extraData})
	return sct, nil
}

func asn1Certs(chain [][]byte) (certs []ct.ASN1Cert) {
	for _, der := range chain {
		certs = append(certs, ct.ASN1Cert{Data: der})
	}
	return certs
}

// sign signs with ECDSA over SHA-256.
func (l *Log) sign(data []byte) (ct.DigitallySigned, error) {
	digest := sha256.Sum256(data)
	signature, err := ecdsa.SignASN1(rand.Reader, l.key, digest[:])
	return ct.DigitallySigned{Algorithm: cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA256, Signature: cttls.ECDSA}, Signature: signature}, err
}

// VerifySCT verifies with certificate-transparency-go, as a client does, that the first certificate
// of chain, DER, has exactly one SCT, and that it is by the log with this key.
func VerifySCT(publicKeyPEM []byte, chain [][]byte) error {
	block, _ := pem.Decode(publicKeyPEM)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return err
	}
	var parsed []*ctx509.Certificate
	for _, der := range chain {
		c, err := ctx509.ParseCertificate(der)
		if ctx509.IsFatal(err) {
			return err
		}
		parsed = append(parsed, c)
	}
	scts, err := x509util.ParseSCTsFromSCTList(&parsed[0].SCTList)
	if err != nil {
		return err
	}
	if len(scts) != 1 || scts[0].LogID.KeyID != sha256.Sum256(block.Bytes) {
		return fmt.Errorf("the certificate has %d SCTs instead of one by this log", len(scts))
	}
	return ctutil.VerifySCT(key, parsed, scts[0], true)
}
