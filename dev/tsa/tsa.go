// SPDX-License-Identifier: Apache-2.0

// Package tsa is an RFC 3161 timestamp authority for a development world: it certifies the time of
// this machine's clock, with a key on its disk.
//
// Only package dev may import it.
package tsa

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strings"
	"time"

	"github.com/digitorus/timestamp"
)

// Authority is an http.Handler for timestamp requests over HTTP (RFC 3161, section 3.4).
type Authority struct {
	chain []*x509.Certificate
	key   *ecdsa.PrivateKey
	now   func() time.Time
}

// New returns the authority of a chain, signing certificate first and root last, and its key.
func New(chain []*x509.Certificate, key *ecdsa.PrivateKey, now func() time.Time) (*Authority, error) {
	if len(chain) < 2 || !key.PublicKey.Equal(chain[0].PublicKey) {
		return nil, fmt.Errorf("the timestamp authority's chain of %d certificates is not one of two or more for its key", len(chain))
	}
	return &Authority{chain: chain, key: key, now: now}, nil
}

const lifetime = 10 * 365 * 24 * time.Hour

// NewChain returns a new chain, DER: a certificate for key, and its root. The root's own key is
// discarded.
func NewChain(key *ecdsa.PrivateKey, now time.Time) ([][]byte, error) {
	rootKey, err := ecdsa.GenerateKey(key.Curve, rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the timestamp authority's root key: %w", err)
	}
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{ // CreateCertificate adds a serial number
			Subject:   pkix.Name{Organization: []string{"mayfly development"}, CommonName: name},
			NotBefore: now.Add(-time.Minute), NotAfter: now.Add(lifetime),
			BasicConstraintsValid: true,
		}
	}
	root := template("mayfly development timestamp root")
	root.IsCA, root.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return nil, fmt.Errorf("making the timestamp authority's root: %w", err)
	}
	if root, err = x509.ParseCertificate(rootDER); err != nil { // with its key identifier
		return nil, err
	}
	leaf := template("mayfly development timestamps")
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	// RFC 3161, section 2.3: timeStamping alone, and critical. crypto/x509 never marks it critical.
	usage, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		return nil, err
	}
	leaf.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), rootKey)
	if err != nil {
		return nil, fmt.Errorf("making the timestamp authority's certificate: %w", err)
	}
	return [][]byte{leafDER, rootDER}, nil
}

// The limits of a request. That of JSON bounds the cost of parsing a nonce, which is a decimal.
const (
	maxRequest = 64 << 10
	maxJSON    = 1 << 10
)

// ServeHTTP answers a timestamp request.
func (a *Authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var answer []byte
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err == nil {
		answer, err = a.answer(body, r.Header.Get("Content-Type"))
	}
	if err != nil {
		http.Error(w, "reading the timestamp request: "+err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(answer)
}

// answer signs the timestamp that a request in DER or, if its content type says so, in JSON asks for.
// The answer is DER either way.
func (a *Authority) answer(body []byte, contentType string) ([]byte, error) {
	parse := timestamp.ParseRequest
	if media, _, _ := strings.Cut(contentType, ";"); strings.TrimSpace(media) == "application/json" {
		parse = parseJSON
	}
	request, err := parse(body)
	if err != nil {
		return nil, err
	}
	switch request.HashAlgorithm {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return nil, fmt.Errorf("its hash is %s, and none of SHA-256, SHA-384 and SHA-512", request.HashAlgorithm)
	}
	if want := request.HashAlgorithm.Size(); len(request.HashedMessage) != want {
		return nil, fmt.Errorf("its hash has %d bytes; %s has %d", len(request.HashedMessage), request.HashAlgorithm, want)
	}
	stamp := timestamp.Timestamp{
		HashAlgorithm: request.HashAlgorithm, HashedMessage: request.HashedMessage, Nonce: request.Nonce,
		Time: a.now(), Ordering: false, Accuracy: time.Second, // the library adds a serial number
		Policy:            asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, // as sigstore's timestamp authorities
		AddTSACertificate: request.Certificates, Certificates: a.chain[1:],
	}
	return stamp.CreateResponseWithOpts(a.chain[0], a.key, crypto.SHA256)
}

// parseJSON parses a timestamp request as sigstore-js sends it: a format of sigstore's timestamp
// authority that RFC 3161 does not define.
func parseJSON(body []byte) (*timestamp.Request, error) {
	if len(body) > maxJSON {
		return nil, fmt.Errorf("it has %d bytes of JSON; %d are the most", len(body), maxJSON)
	}
	var asked struct {
		ArtifactHash  []byte   `json:"artifactHash"`
		HashAlgorithm string   `json:"hashAlgorithm"`
		Nonce         *big.Int `json:"nonce"`
		Certificates  bool     `json:"certificates"`
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		return nil, err
	}
	algorithms := map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}
	return &timestamp.Request{
		HashAlgorithm: algorithms[strings.ToLower(asked.HashAlgorithm)], HashedMessage: asked.ArtifactHash,
		Nonce: asked.Nonce, Certificates: asked.Certificates,
	}, nil
}
