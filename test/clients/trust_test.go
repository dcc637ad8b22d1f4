// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
)

// writeTrust writes trusted_root.json and signing_config.v0.2.json into dir. tsa is the chain of
// the timestamp authority, leaf first.
func (w *world) writeTrust(t *testing.T, dir string, tsa []*x509.Certificate, rekor *ecdsa.PublicKey) {
	t.Helper()
	trusted, err := w.newTrustedRoot(tsa, rekor)
	if err != nil {
		t.Fatal(err)
	}
	w.trustedRoot = writeJSON(t, filepath.Join(dir, "trusted_root.json"), trusted)

	service := func(url string, version uint32) []root.Service {
		return []root.Service{{
			URL: url, MajorAPIVersion: version, Operator: "mayfly.test",
			ValidityPeriodStart: time.Now().Add(-time.Hour),
		}}
	}
	anyOne := root.ServiceConfiguration{Selector: prototrustroot.ServiceSelector_ANY}
	// The version of a certificate authority is 1, although the path of its REST API has v2.
	signing, err := root.NewSigningConfig(root.SigningConfigMediaType02,
		service(w.mayfly, 1), service(w.email.url, 1),
		service(w.rekor, 2), anyOne,
		service(w.tsa, 1), anyOne)
	if err != nil {
		t.Fatal(err)
	}
	w.signingConfig = writeJSON(t, filepath.Join(dir, "signing_config.v0.2.json"), signing)
}

func (w *world) newTrustedRoot(tsa []*x509.Certificate, rekor *ecdsa.PublicKey) (*root.TrustedRoot, error) {
	last := len(w.ca) - 1
	ca := &root.FulcioCertificateAuthority{
		Root: w.ca[last], Intermediates: w.ca[:last],
		ValidityPeriodStart: w.ca[0].NotBefore, URI: w.mayfly,
	}
	ctlogs, err := transparencyLog(w.log.url, w.log.key)
	if err != nil {
		return nil, err
	}
	tlogs, err := transparencyLog(w.rekor, rekor)
	if err != nil {
		return nil, err
	}
	return root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{ca}, ctlogs, []root.TimestampingAuthority{w.timestamps(tsa)}, tlogs)
}

// timestamps is the trusted root's entry for the timestamp authority with this chain, leaf first.
func (w *world) timestamps(tsa []*x509.Certificate) root.TimestampingAuthority {
	last := len(tsa) - 1
	return &root.SigstoreTimestampingAuthority{
		Root: tsa[last], Intermediates: tsa[1:last], Leaf: tsa[0],
		ValidityPeriodStart: tsa[0].NotBefore, URI: w.tsa,
	}
}

// transparencyLog is the trusted root's entry for a log, under the log ID that RFC 6962,
// section 3.2, and Rekor v2 give to a log with a P-256 key: the SHA-256 of its SPKI.
func transparencyLog(url string, key *ecdsa.PublicKey) (map[string]*root.TransparencyLog, error) {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(spki)
	return map[string]*root.TransparencyLog{hex.EncodeToString(id[:]): {
		BaseURL: url, ID: id[:], PublicKey: key,
		HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
		ValidityPeriodStart: time.Now().Add(-time.Hour),
	}}, nil
}

func writeJSON(t *testing.T, path string, value interface{ MarshalJSON() ([]byte, error) }) string {
	t.Helper()
	text, err := value.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
