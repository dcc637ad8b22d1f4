// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"testing"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/tls"
	f_note "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// TestIndependentJudges proves entries, SCTs, inclusion and consistency with
// certificate-transparency-go's client, the checkpoint with transparency-dev/formats, and the
// tiles, read over HTTP, with Tessera's checker. No code of this project verifies.
func TestIndependentJudges(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	cfg.Roots = a.roots
	l := open(t, cfg)
	url, publicKey := serve(t, l), l.PublicKey()
	judge := ctClient(t, url, publicKey)

	empty, err := judge.GetSTH(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var submissions []ctlog.Submission
	var scts []ctlog.SCT
	heads := []*ct.SignedTreeHead{empty}
	for _, n := range []int{1, 4, 255, 300} {
		more := make([]ctlog.Submission, n)
		for i := range more {
			more[i] = a.submission(t)
		}
		submissions, scts = append(submissions, more...), append(scts, submitAll(t, l, more)...)
		shutdown(t, l)
		head, err := judge.GetSTH(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, head)
		l = open(t, cfg)
	}
	shutdown(t, l)

	newest := heads[len(heads)-1]
	if want := uint64(len(submissions)); newest.TreeSize != want {
		t.Fatalf("the tree has %d entries, not %d", newest.TreeSize, want)
	}
	for i, sct := range scts {
		judgeSCT(t, judge, publicKey, newest, submissions[i], sct)
	}
	for i, older := range heads {
		for _, newer := range heads[i:] {
			judgeConsistency(t, judge, older, newer)
		}
	}
	judgeEntries(t, judge, newest)
	judgeTiles(t, url, cfg.Origin, publicKey, newest)
}

// judgeSCT proves an SCT's signature, and with its leaf_index that the tree holds the entry.
func judgeSCT(t *testing.T, judge *client.LogClient, publicKey []byte, head *ct.SignedTreeHead, sub ctlog.Submission, ours ctlog.SCT) {
	t.Helper()
	list, err := ctlog.MarshalSCTList(ours)
	if err != nil {
		t.Fatal(err)
	}
	var sct ct.SignedCertificateTimestamp
	if rest, err := tls.Unmarshal(list[4:], &sct); err != nil || len(rest) > 0 {
		t.Fatalf("parsing SCT: %v, %d bytes left", err, len(rest))
	}
	chain := make([]ct.ASN1Cert, len(sub.Chain))
	for i, der := range sub.Chain {
		chain[i].Data = der
	}
	if err := judge.VerifySCTSignature(sct, ct.PrecertLogEntryType, chain); err != nil {
		t.Fatalf("verifying SCT: %v", err)
	}
	leaf, err := ct.MerkleTreeLeafFromRawChain(chain, ct.PrecertLogEntryType, sct.Timestamp)
	if err != nil {
		t.Fatal(err)
	}
	leaf.TimestampedEntry.Extensions = sct.Extensions
	hash, err := ct.LeafHashForLeaf(leaf)
	if err != nil {
		t.Fatal(err)
	}
	index := leafIndex(t, sct.Extensions)
	answer, err := judge.GetEntryAndProof(t.Context(), index, head.TreeSize)
	if err != nil {
		t.Fatal(err)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, head.TreeSize, hash[:], answer.AuditPath, head.SHA256RootHash[:]); err != nil {
		t.Fatalf("verifying inclusion of entry %d: %v", index, err)
	}
}

func leafIndex(t *testing.T, extensions []byte) uint64 {
	t.Helper()
	if len(extensions) != 8 || extensions[0] != 0 || extensions[1] != 0 || extensions[2] != 5 {
		t.Fatalf("the SCT's extensions are %x, not one leaf_index", extensions)
	}
	var index uint64
	for _, b := range extensions[3:] {
		index = index<<8 | uint64(b)
	}
	return index
}

func judgeConsistency(t *testing.T, judge *client.LogClient, older, newer *ct.SignedTreeHead) {
	t.Helper()
	hashes, err := judge.GetSTHConsistency(t.Context(), older.TreeSize, newer.TreeSize)
	if err != nil {
		t.Fatal(err)
	}
	if older.TreeSize == 0 {
		return // RFC 6962 has no proof for that case
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, older.TreeSize, newer.TreeSize, hashes, older.SHA256RootHash[:], newer.SHA256RootHash[:]); err != nil {
		t.Errorf("consistency of %d and %d: %v", older.TreeSize, newer.TreeSize, err)
	}
	if older.Timestamp > newer.Timestamp {
		t.Errorf("the tree head of size %d is later than that of size %d", older.TreeSize, newer.TreeSize)
	}
}

// judgeEntries reads the log as a monitor does, and parses every entry.
func judgeEntries(t *testing.T, judge *client.LogClient, head *ct.SignedTreeHead) {
	t.Helper()
	for next := int64(0); next < int64(head.TreeSize); {
		entries, err := judge.GetEntries(t.Context(), next, int64(head.TreeSize)-1)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			t.Fatal("get-entries gave nothing")
		}
		for _, e := range entries {
			if e.Precert == nil || len(e.Chain) != 2 {
				t.Fatalf("entry %d is no precertificate with a chain of two", e.Index)
			}
		}
		next += int64(len(entries))
	}
}

// judgeTiles reads the log over HTTP with Tessera's checker.
func judgeTiles(t *testing.T, url, origin string, publicKey []byte, head *ct.SignedTreeHead) {
	t.Helper()
	block, _ := pem.Decode(publicKey)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	text, err := f_note.RFC6962VerifierString("https://"+origin, key)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := f_note.NewRFC6962Verifier(text)
	if err != nil {
		t.Fatal(err)
	}
	source := tileClient(t, url)
	raw, err := source.ReadCheckpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	opened, err := note.Open(raw, note.VerifierList(verifier))
	if err != nil {
		t.Fatalf("opening checkpoint: %v", err)
	}
	if want := fmt.Sprintf("%s\n%d\n", origin, head.TreeSize); !bytes.HasPrefix([]byte(opened.Text), []byte(want)) {
		t.Errorf("the checkpoint is %q", opened.Text)
	}
	if err := fsck.New(origin, verifier, source, bundleHashes, fsck.Opts{N: 2}).Check(t.Context()); err != nil {
		t.Errorf("fsck: %v", err)
	}
}

// bundleHashes parses a data tile with certificate-transparency-go's TLS.
func bundleHashes(bundle []byte) ([][]byte, error) {
	var hashes [][]byte
	for rest := bundle; len(rest) > 0; {
		var entry ct.TimestampedEntry
		var err error
		if rest, err = tls.Unmarshal(rest, &entry); err != nil {
			return nil, err
		}
		if entry.EntryType == ct.PrecertLogEntryType {
			var precert ct.ASN1Cert
			if rest, err = tls.Unmarshal(rest, &precert); err != nil {
				return nil, err
			}
		}
		var chain struct {
			Fingerprints []byte `tls:"minlen:0,maxlen:65535"`
		}
		if rest, err = tls.Unmarshal(rest, &chain); err != nil {
			return nil, err
		}
		hash, err := ct.LeafHashForLeaf(&ct.MerkleTreeLeaf{Version: ct.V1, LeafType: ct.TimestampedEntryLeafType, TimestampedEntry: &entry})
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, hash[:])
	}
	return hashes, nil
}

// TestIndependentSubmitter submits over HTTP with certificate-transparency-go's client, which
// verifies the received SCTs. The same chain, with its root or without, gets the first SCT again.
func TestIndependentSubmitter(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	cfg.Roots = a.roots
	l := open(t, cfg)
	submitter := ctClient(t, serve(t, l), l.PublicKey())

	roots, err := submitter.GetAcceptedRoots(t.Context())
	if err != nil || len(roots) != 1 || !bytes.Equal(roots[0].Data, a.Root.Raw) {
		t.Errorf("get-roots: %v, %v", roots, err)
	}
	d := a.Draft(t)
	sub := d.Submission
	precert := []ct.ASN1Cert{{Data: sub.Chain[0]}, {Data: sub.Chain[1]}, {Data: sub.Chain[2]}}
	for _, chain := range [][]ct.ASN1Cert{precert, precert, precert[:2]} {
		sct, err := submitter.AddPreChain(t.Context(), chain)
		if err != nil {
			t.Fatal(err)
		}
		if index := leafIndex(t, sct.Extensions); index != 0 {
			t.Errorf("a repeated submission got index %d", index)
		}
	}
	final := []ct.ASN1Cert{{Data: d.Certificate(t, ctlog.SCT{})}, {Data: sub.Chain[1]}}
	if sct, err := submitter.AddChain(t.Context(), final); err != nil || leafIndex(t, sct.Extensions) != 1 {
		t.Fatalf("the second entry: %v, %v", sct, err)
	}
	shutdown(t, l)
	entries, err := submitter.GetEntries(t.Context(), 0, 1)
	if err != nil || len(entries) != 2 || entries[0].Precert == nil || entries[1].X509Cert == nil || !bytes.Equal(entries[1].X509Cert.Raw, final[0].Data) || len(entries[1].Chain) != 2 {
		t.Errorf("the entries are not what was submitted: %v, %v", entries, err)
	}
}
