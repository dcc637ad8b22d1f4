// SPDX-License-Identifier: Apache-2.0

// Package trustroot renders what sigstore's clients need to know of an instance:
// trusted_root.json (what verifiers trust) and signing_config.v0.2.json (where signers send
// requests).
//
// Equal input gives equal bytes, so that a file can be compared, hashed and kept. Package
// app gathers the input; of the other packages, only dev and cmd may
// import it.
package trustroot

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// The names of the two documents in TUF repositories and on servers.
const (
	TrustedRootName   = "trusted_root.json"
	SigningConfigName = "signing_config.v0.2.json"
)

// The media types that the documents state for themselves (protobuf-specs).
const (
	trustedRootType   = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
	signingConfigType = "application/vnd.dev.sigstore.signingconfig.v0.2+json"
)

// Instance is the CA instance that the documents describe.
type Instance struct {
	// PublicURL is where clients reach the certificate authority. It is mandatory.
	PublicURL string
	// Authorities are the CA's authorities, in the order of the listing. At least one is
	// required.
	Authorities []Authority
	// CTLogs are the Certificate Transparency logs.
	CTLogs []CTLog
	// TimestampAuthorities and TLogs appear unchanged in the trusted root: JSON objects of
	// protobuf-specs' types CertificateAuthority and TransparencyLogInstance.
	TimestampAuthorities, TLogs []json.RawMessage
	// Providers are the issuer URLs at which a person can sign in.
	Providers []string
}

// Authority is a CA certificate with the certificates above it, and the end of its validity.
type Authority struct {
	// Chain has the issuing certificate first and the root last.
	Chain []*x509.Certificate
	// End is when the last of its certificates has expired; zero for an authority that signs
	// or will sign.
	End time.Time
}

// CTLog is a Certificate Transparency log.
type CTLog struct {
	// URL is its submission prefix.
	URL string
	// PublicKey is DER, a SubjectPublicKeyInfo.
	PublicKey []byte
}

type trustedRoot struct {
	MediaType              string                 `json:"mediaType"`
	TLogs                  []json.RawMessage      `json:"tlogs,omitempty"`
	CertificateAuthorities []CertificateAuthority `json:"certificateAuthorities"`
	CTLogs                 []TransparencyLog      `json:"ctlogs,omitempty"`
	TimestampAuthorities   []json.RawMessage      `json:"timestampAuthorities,omitempty"`
}

// CertificateAuthority is a CA or a timestamp authority in a trusted root.
type CertificateAuthority struct {
	Subject   distinguishedName `json:"subject"`
	URI       string            `json:"uri"`
	CertChain certChain         `json:"certChain"`
	ValidFor  timeRange         `json:"validFor"`
}

type distinguishedName struct {
	Organization string `json:"organization"`
	CommonName   string `json:"commonName"`
}

type certChain struct {
	Certificates []rawBytes `json:"certificates"`
}

type rawBytes struct {
	RawBytes []byte `json:"rawBytes"`
}

type timeRange struct {
	Start time.Time  `json:"start"`
	End   *time.Time `json:"end,omitempty"`
}

// TransparencyLog is a Certificate Transparency log or a Rekor log in a trusted root.
type TransparencyLog struct {
	BaseURL       string    `json:"baseUrl"`
	HashAlgorithm string    `json:"hashAlgorithm"`
	PublicKey     publicKey `json:"publicKey"`
	LogID         logID     `json:"logId"`
}

type publicKey struct {
	RawBytes   []byte    `json:"rawBytes"`
	KeyDetails string    `json:"keyDetails"`
	ValidFor   timeRange `json:"validFor"`
}

type logID struct {
	KeyID []byte `json:"keyId"`
}

// NewCertificateAuthority returns the entry of a chain, issuing certificate first and root
// last. The entry is valid from the start of its first certificate: clients pick an authority
// by that start.
func NewCertificateAuthority(uri string, chain []*x509.Certificate) CertificateAuthority {
	authority := CertificateAuthority{URI: uri, ValidFor: timeRange{Start: chain[0].NotBefore.UTC()}}
	subject := chain[0].Subject
	authority.Subject.CommonName = subject.CommonName
	if len(subject.Organization) > 0 {
		authority.Subject.Organization = subject.Organization[0]
	}
	for _, c := range chain {
		authority.CertChain.Certificates = append(authority.CertChain.Certificates, rawBytes{c.Raw})
	}
	return authority
}

// NewTransparencyLog returns the entry of a log with an ECDSA or RSA key, given as a
// SubjectPublicKeyInfo. The log ID is the key's SHA-256 (RFC 6962, section 3.2).
func NewTransparencyLog(url string, spki []byte, start time.Time) (TransparencyLog, error) {
	details, err := keyDetails(spki)
	if err != nil {
		return TransparencyLog{}, fmt.Errorf("the key of the log %s: %w", url, err)
	}
	id := sha256.Sum256(spki)
	return TransparencyLog{
		BaseURL: url, HashAlgorithm: "SHA2_256",
		PublicKey: publicKey{RawBytes: spki, KeyDetails: details, ValidFor: timeRange{Start: start.UTC()}},
		LogID:     logID{id[:]},
	}, nil
}

// keyDetails is the name that protobuf-specs' PublicKeyDetails has for a key. No client knows the ID
// of a log with an Ed25519 key by the key alone.
func keyDetails(spki []byte) (string, error) {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return "", fmt.Errorf("parsing public key: %w", err)
	}
	kind := fmt.Sprintf("%T", key)
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		kind = "ECDSA " + key.Curve.Params().Name
	case *rsa.PublicKey:
		kind = fmt.Sprintf("RSA %d", key.N.BitLen())
	}
	details := map[string]string{
		"ECDSA P-256": "PKIX_ECDSA_P256_SHA_256", "ECDSA P-384": "PKIX_ECDSA_P384_SHA_384",
		"RSA 2048": "PKIX_RSA_PKCS1V15_2048_SHA256", "RSA 3072": "PKIX_RSA_PKCS1V15_3072_SHA256", "RSA 4096": "PKIX_RSA_PKCS1V15_4096_SHA256",
	}[kind]
	if details == "" {
		return "", fmt.Errorf("it is %s; it must be ECDSA P-256 or P-384, or RSA 2048, 3072 or 4096", kind)
	}
	return details, nil
}

// TrustedRoot renders trusted_root.json.
func (i Instance) TrustedRoot() ([]byte, error) {
	if err := i.check(); err != nil {
		return nil, err
	}
	document := trustedRoot{MediaType: trustedRootType, TLogs: i.TLogs, TimestampAuthorities: i.TimestampAuthorities}
	for _, authority := range i.Authorities {
		entry := NewCertificateAuthority(i.PublicURL, authority.Chain)
		if !authority.End.IsZero() {
			end := authority.End.UTC()
			entry.ValidFor.End = &end
		}
		document.CertificateAuthorities = append(document.CertificateAuthorities, entry)
	}
	for _, log := range i.CTLogs {
		entry, err := NewTransparencyLog(log.URL, log.PublicKey, i.start())
		if err != nil {
			return nil, err
		}
		document.CTLogs = append(document.CTLogs, entry)
	}
	return marshal(document, "  ")
}

func (i Instance) check() error {
	if i.PublicURL == "" {
		return errors.New("the public URL is missing")
	}
	if len(i.Authorities) == 0 {
		return errors.New("there is no certificate authority")
	}
	for _, authority := range i.Authorities {
		if len(authority.Chain) == 0 {
			return errors.New("a chain is empty")
		}
	}
	return nil
}

// start returns when the first CA became valid: the instance cannot have been used earlier.
// It serves for every entry whose own start is not recorded.
func (i Instance) start() time.Time {
	start := i.Authorities[0].Chain[0].NotBefore
	for _, authority := range i.Authorities {
		if begin := authority.Chain[0].NotBefore; begin.Before(start) {
			start = begin
		}
	}
	return start.UTC()
}

// Marshal returns an entry of a trusted root in the form that Instance.TLogs takes.
func Marshal(entry any) (json.RawMessage, error) {
	text, err := marshal(entry, "")
	return bytes.TrimSpace(text), err
}

// marshal keeps the order of fields, and does not escape URLs.
func marshal(document any, indent string) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", indent)
	if err := encoder.Encode(document); err != nil {
		return nil, fmt.Errorf("encoding document: %w", err)
	}
	return out.Bytes(), nil
}

// operator returns the name of the instance's operator: the host of its public URL.
func (i Instance) operator() string {
	u, err := url.Parse(i.PublicURL)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}
