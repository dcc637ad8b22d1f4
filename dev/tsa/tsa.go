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
	"fmt"
	"io"
	"math/big"
	"net/http"
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
// now may be nil.
func New(chain []*x509.Certificate, key *ecdsa.PrivateKey, now func() time.Time) (*Authority, error) {
	if len(chain) < 2 {
		return nil, fmt.Errorf("the timestamp authority's chain has %d certificates instead of two", len(chain))
	}
	if !key.PublicKey.Equal(chain[0].PublicKey) {
		return nil, fmt.Errorf("the timestamp authority's key is not that of %s", chain[0].Subject)
	}
	if now == nil {
		now = time.Now
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
		return &x509.Certificate{
			SerialNumber: serialNumber(),
			Subject:      pkix.Name{Organization: []string{"mayfly development"}, CommonName: name},
			NotBefore:    now.Add(-time.Minute), NotAfter: now.Add(lifetime),
			BasicConstraintsValid: true,
		}
	}
	root := template("mayfly development timestamp root")
	root.IsCA, root.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return nil, fmt.Errorf("making the timestamp authority's root: %w", err)
	}
	if root, err = x509.ParseCertificate(rootDER); err != nil {
		return nil, fmt.Errorf("making the timestamp authority's root: %w", err)
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

// serialNumber is positive and has 159 random bits.
func serialNumber() *big.Int {
	var b [20]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand stops the program instead
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

// policy is the policy that sigstore's timestamp authorities name.
func policy() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2} }

const maxRequest = 64 << 10

// ServeHTTP answers a timestamp request.
func (a *Authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		http.Error(w, "a timestamp is asked for with POST", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, "reading the timestamp request: "+err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := a.answer(body, r.Header.Get("Content-Type"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(answer)
}

func (a *Authority) answer(body []byte, contentType string) ([]byte, error) {
	request, err := parseRequest(body, contentType)
	if err != nil {
		return nil, fmt.Errorf("reading the timestamp request: %w", err)
	}
	stamp := timestamp.Timestamp{
		HashAlgorithm: request.HashAlgorithm, HashedMessage: request.HashedMessage, Nonce: request.Nonce,
		Time: a.now(), SerialNumber: serialNumber(), Policy: policy(), Ordering: false, Accuracy: time.Second,
		AddTSACertificate: request.Certificates, Certificates: a.chain[1:],
	}
	answer, err := stamp.CreateResponseWithOpts(a.chain[0], a.key, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing the timestamp: %w", err)
	}
	return answer, nil
}
