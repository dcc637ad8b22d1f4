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
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The names of the two documents in TUF repositories and on servers.
const (
	TrustedRootName   = "trusted_root.json"
	SigningConfigName = "signing_config.v0.2.json"
)

// ErrNotRendered states that an instance has no public URL, which the documents require.
var ErrNotRendered = errors.New("public_url is not set, and trusted_root.json and signing_config.v0.2.json would have to say it: add public_url, the URL at which clients reach this server")

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

// CertificateAuthority is a CA or a timestamp authority in a trusted root.
type CertificateAuthority struct {
	Subject struct {
		Organization string `json:"organization"`
		CommonName   string `json:"commonName"`
	} `json:"subject"`
	URI       string `json:"uri"`
	CertChain struct {
		Certificates []rawBytes `json:"certificates"`
	} `json:"certChain"`
	ValidFor timeRange `json:"validFor"`
}

type rawBytes struct {
	RawBytes []byte `json:"rawBytes"`
}

type timeRange struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end,omitzero"`
}

// TransparencyLog is a Certificate Transparency log or a Rekor log in a trusted root.
type TransparencyLog struct {
	BaseURL       string `json:"baseUrl"`
	HashAlgorithm string `json:"hashAlgorithm"`
	PublicKey     struct {
		RawBytes   []byte    `json:"rawBytes"`
		KeyDetails string    `json:"keyDetails"`
		ValidFor   timeRange `json:"validFor"`
	} `json:"publicKey"`
	LogID struct {
		KeyID []byte `json:"keyId"`
	} `json:"logId"`
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
	log := TransparencyLog{BaseURL: url, HashAlgorithm: "SHA2_256"}
	details, err := keyDetails(spki)
	if err != nil {
		return log, fmt.Errorf("the key of the log %s: %w", url, err)
	}
	id := sha256.Sum256(spki)
	log.PublicKey.RawBytes, log.PublicKey.KeyDetails, log.PublicKey.ValidFor.Start = spki, details, start.UTC()
	log.LogID.KeyID = id[:]
	return log, nil
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
	start, err := i.start()
	if err != nil {
		return nil, err
	}
	document := struct {
		MediaType              string                 `json:"mediaType"`
		TLogs                  []json.RawMessage      `json:"tlogs,omitempty"`
		CertificateAuthorities []CertificateAuthority `json:"certificateAuthorities"`
		CTLogs                 []TransparencyLog      `json:"ctlogs,omitempty"`
		TimestampAuthorities   []json.RawMessage      `json:"timestampAuthorities,omitempty"`
	}{MediaType: "application/vnd.dev.sigstore.trustedroot+json;version=0.1", TLogs: i.TLogs, TimestampAuthorities: i.TimestampAuthorities}
	for _, authority := range i.Authorities {
		entry := NewCertificateAuthority(i.PublicURL, authority.Chain)
		entry.ValidFor.End = authority.End.UTC()
		document.CertificateAuthorities = append(document.CertificateAuthorities, entry)
	}
	for _, log := range i.CTLogs {
		entry, err := NewTransparencyLog(log.URL, log.PublicKey, start)
		if err != nil {
			return nil, err
		}
		document.CTLogs = append(document.CTLogs, entry)
	}
	return marshal(document, "  ")
}

// service is a service in a signing configuration. The major versions are those of protobuf-specs:
// the CA's is 1 although the path of its REST API has v2.
type service struct {
	URL             string    `json:"url"`
	MajorAPIVersion int       `json:"majorApiVersion"`
	ValidFor        timeRange `json:"validFor"`
	Operator        string    `json:"operator"`
}

// SigningConfig renders signing_config.v0.2.json. It offers the transparency logs and
// timestamp authorities that have a URL and no end. It lists every such log as a Rekor v2
// log.
func (i Instance) SigningConfig() ([]byte, error) {
	start, err := i.start()
	if err != nil {
		return nil, err
	}
	public, err := url.Parse(i.PublicURL)
	if err != nil {
		return nil, fmt.Errorf("parsing the public URL: %w", err)
	}
	services := func(version int, urls []string) (list []service) {
		for _, url := range urls {
			list = append(list, service{url, version, timeRange{Start: start}, strings.ToLower(public.Hostname())})
		}
		return list
	}
	logs, err := open(i.TLogs)
	if err != nil {
		return nil, fmt.Errorf("reading a transparency log of the trusted root: %w", err)
	}
	timestamps, err := open(i.TimestampAuthorities)
	if err != nil {
		return nil, fmt.Errorf("reading a timestamp authority of the trusted root: %w", err)
	}
	// A selection is present only where there is such a service: sigstore-js refuses an empty one.
	document := struct {
		MediaType       string            `json:"mediaType"`
		CAURLs          []service         `json:"caUrls"`
		OIDCURLs        []service         `json:"oidcUrls,omitempty"`
		RekorTLogURLs   []service         `json:"rekorTlogUrls,omitempty"`
		RekorTLogConfig map[string]string `json:"rekorTlogConfig,omitempty"`
		TSAURLs         []service         `json:"tsaUrls,omitempty"`
		TSAConfig       map[string]string `json:"tsaConfig,omitempty"`
	}{
		MediaType: "application/vnd.dev.sigstore.signingconfig.v0.2+json",
		CAURLs:    services(1, []string{i.PublicURL}), OIDCURLs: services(1, i.Providers),
		RekorTLogURLs: services(2, logs), TSAURLs: services(1, timestamps),
	}
	if len(logs) > 0 {
		document.RekorTLogConfig = map[string]string{"selector": "ANY"}
	}
	if len(timestamps) > 0 {
		document.TSAConfig = map[string]string{"selector": "ANY"}
	}
	return marshal(document, "  ")
}

// open returns the URLs of the trusted root's entries that have one and no end.
func open(entries []json.RawMessage) (urls []string, err error) {
	type validity struct{ End *time.Time }
	for _, raw := range entries {
		var entry struct {
			BaseURL, URI string // of a log, of a timestamp authority
			ValidFor     validity
			PublicKey    struct{ ValidFor validity }
		}
		if err := json.Unmarshal(raw, &entry); err != nil {
			return nil, err
		}
		if url := entry.BaseURL + entry.URI; url != "" && entry.ValidFor.End == nil && entry.PublicKey.ValidFor.End == nil {
			urls = append(urls, url)
		}
	}
	return urls, nil
}

// start returns when the first CA became valid: the instance cannot have been used earlier.
// It serves for every entry whose own start is not recorded.
func (i Instance) start() (start time.Time, err error) {
	if i.PublicURL == "" || len(i.Authorities) == 0 {
		return start, errors.New("the public URL or the certificate authority is missing")
	}
	if slices.ContainsFunc(i.Authorities, func(a Authority) bool { return len(a.Chain) == 0 }) {
		return start, errors.New("a chain is empty")
	}
	for _, authority := range i.Authorities {
		if begin := authority.Chain[0].NotBefore; start.IsZero() || begin.Before(start) {
			start = begin
		}
	}
	return start.UTC(), nil
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

// Handler serves what render returns, with an ETag for conditional requests. It passes an
// error of render to failed and hides it from the client.
func Handler(render func() ([]byte, error), failed func(*http.Request, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		document, err := render()
		if err != nil {
			failed(r, err)
			http.Error(w, "the document cannot be rendered", http.StatusInternalServerError)
			return
		}
		sum := sha256.Sum256(document)
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
		h.Set("Cache-Control", "no-cache")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(document))
	})
}
