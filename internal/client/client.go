// SPDX-License-Identifier: Apache-2.0

// Package client asks a keyless CA for a certificate, over REST v2 or gRPC, by signed
// challenge or by CSR. It serves `mayfly request`, and may be imported by cmd and tests.
package client

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

const (
	timeout         = 30 * time.Second
	maxResponseSize = 1 << 20
)

// Config states where the CA is.
type Config struct {
	// URL is http or https, and a host with an optional port. With https the server's
	// certificate is verified.
	URL string
	// GRPC asks over gRPC instead of REST v2.
	GRPC bool
	// RootCAs are the roots that may certify the server; nil means the system's roots.
	RootCAs *x509.CertPool
}

// Client asks one CA. It is safe for concurrent use.
type Client struct {
	base *url.URL
	grpc bool
	tls  *tls.Config
	http *http.Client
}

// New returns a client of the CA in config.
func New(config Config) (*Client, error) {
	base, err := url.Parse(config.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("the URL of the CA is %q; it must look like https://ca.example or http://127.0.0.1:5555", config.URL)
	}
	tlsConfig := &tls.Config{RootCAs: config.RootCAs, MinVersion: tls.VersionTLS12}
	return &Client{
		base: base,
		grpc: config.GRPC,
		tls:  tlsConfig,
		http: &http.Client{
			Timeout: timeout,
			// The token is for the CA that the caller named: net/http would send it to a
			// subdomain, and from https to http.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport:     &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment},
		},
	}, nil
}

// Request is the content of a request for a certificate.
type Request struct {
	// IDToken is the raw token.
	IDToken string
	// Signer holds the key to certify: ECDSA on P-256, P-384 or P-521, RSA, or Ed25519.
	Signer crypto.Signer
	// CSR proves possession by a certificate signing request instead of a signed challenge.
	CSR bool
	// Challenge is what is signed; "" takes the token's `email`, or else its `sub`, as
	// sigstore's clients do.
	Challenge string
}

// Certificate is the answer.
type Certificate struct {
	// PEM has the leaf first and the root last, one PEM block each.
	PEM []string
	// DetachedSCT is set where the SCT is not embedded and there is one.
	DetachedSCT []byte
}

// Error is the CA's refusal.
type Error struct {
	Reason, Message, RequestID string
}

// Error returns reason, sentence and request ID.
func (e *Error) Error() string {
	text := "the CA refuses: " + e.Message
	if e.Reason != "" {
		text += " (" + e.Reason + ")"
	}
	if e.RequestID != "" {
		text += ", request " + e.RequestID
	}
	return text
}

// SigningCertificate asks for a certificate. It returns a refusal of the CA as an *Error.
func (c *Client) SigningCertificate(ctx context.Context, req Request) (*Certificate, error) {
	p, err := prove(req)
	if err != nil {
		return nil, err
	}
	if c.grpc {
		return c.overGRPC(ctx, req.IDToken, p)
	}
	return c.overREST(ctx, req.IDToken, p)
}

// evidence is the key and the proof of possession in the form in which the client sends them.
type evidence struct {
	publicKey string // PEM
	signature []byte
	csr       []byte // PEM; where set, the other two are not
}

func prove(req Request) (evidence, error) {
	if req.CSR {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, req.Signer)
		if err != nil {
			return evidence{}, fmt.Errorf("making a certificate signing request: %w", err)
		}
		return evidence{csr: pem.Encode("CERTIFICATE REQUEST", der)}, nil
	}
	challenge := req.Challenge
	if challenge == "" {
		var err error
		if challenge, err = challengeOf(req.IDToken); err != nil {
			return evidence{}, err
		}
	}
	signature, err := signChallenge(req.Signer, challenge)
	if err != nil {
		return evidence{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(req.Signer.Public())
	if err != nil {
		return evidence{}, fmt.Errorf("encoding the public key: %w", err)
	}
	return evidence{
		publicKey: string(pem.Encode("PUBLIC KEY", spki)),
		signature: signature,
	}, nil
}

// challengeOf reads, without verifying, the claim of the token that clients sign.
func challengeOf(token string) (string, error) {
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 {
		return "", errors.New("the ID token is no JWT: it does not have three parts between dots")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", errors.New("the ID token is no JWT: its payload is not base64url")
	}
	var claims struct {
		Email   string `json:"email"`
		Subject string `json:"sub"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return "", errors.New("the ID token is no JWT: its payload is not JSON")
	}
	if claims.Email != "" {
		return claims.Email, nil
	}
	if claims.Subject == "" {
		return "", errors.New("the ID token has neither the claim email nor the claim sub")
	}
	return claims.Subject, nil
}

func signChallenge(signer crypto.Signer, challenge string) ([]byte, error) {
	message, hash := []byte(challenge), crypto.SHA256
	switch key := signer.Public().(type) {
	case ed25519.PublicKey:
		return signer.Sign(rand.Reader, message, crypto.Hash(0))
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P384():
			hash = crypto.SHA384
		case elliptic.P521():
			hash = crypto.SHA512
		}
	case *rsa.PublicKey:
	default:
		return nil, fmt.Errorf("a key of type %T cannot sign a challenge", key)
	}
	var digest []byte
	switch hash {
	case crypto.SHA384:
		sum := sha512.Sum384(message)
		digest = sum[:]
	case crypto.SHA512:
		sum := sha512.Sum512(message)
		digest = sum[:]
	default:
		sum := sha256.Sum256(message)
		digest = sum[:]
	}
	signature, err := signer.Sign(rand.Reader, digest, hash)
	if err != nil {
		return nil, fmt.Errorf("signing the challenge: %w", err)
	}
	return signature, nil
}

// restRequest and restAnswer are the JSON of REST v2.
type restRequest struct {
	PublicKeyRequest *restPublicKeyRequest `json:"publicKeyRequest,omitempty"`
	CSR              []byte                `json:"certificateSigningRequest,omitempty"`
}

type restPublicKeyRequest struct {
	PublicKey struct {
		Content string `json:"content"`
	} `json:"publicKey"`
	ProofOfPossession []byte `json:"proofOfPossession"`
}

type restChain struct {
	Chain struct {
		Certificates []string `json:"certificates"`
	} `json:"chain"`
	SCT []byte `json:"signedCertificateTimestamp"`
}

type restAnswer struct {
	Embedded *restChain `json:"signedCertificateEmbeddedSct"`
	Detached *restChain `json:"signedCertificateDetachedSct"`
}

func (c *Client) overREST(ctx context.Context, token string, p evidence) (*Certificate, error) {
	body := restRequest{CSR: p.csr}
	if p.csr == nil {
		body.PublicKeyRequest = &restPublicKeyRequest{ProofOfPossession: p.signature}
		body.PublicKeyRequest.PublicKey.Content = p.publicKey
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath("api/v2/signingCert").String(), bytes.NewReader(encoded))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking the CA: %w", err)
	}
	defer response.Body.Close()
	data, err := files.ReadAll(response.Body, maxResponseSize)
	if err != nil {
		return nil, fmt.Errorf("reading the CA's answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, refusal(response, data)
	}
	var answer restAnswer
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, fmt.Errorf("decoding the CA's answer: %w", err)
	}
	switch {
	case answer.Embedded != nil:
		return &Certificate{PEM: answer.Embedded.Chain.Certificates}, nil
	case answer.Detached != nil:
		return &Certificate{PEM: answer.Detached.Chain.Certificates, DetachedSCT: answer.Detached.SCT}, nil
	default:
		return nil, errors.New("the CA's answer holds no certificate")
	}
}

// refusal reads the error from an answer of the CA that is not a certificate.
func refusal(response *http.Response, data []byte) error {
	var answer struct {
		Message string `json:"message"`
		Details []struct {
			Reason    string `json:"reason"`
			RequestID string `json:"requestId"`
		} `json:"details"`
	}
	if err := json.Unmarshal(data, &answer); err != nil || answer.Message == "" {
		return &Error{Message: fmt.Sprintf("it answers %s; is this the URL of a keyless CA?", response.Status)}
	}
	e := &Error{Message: answer.Message}
	for _, detail := range answer.Details {
		e.Reason += detail.Reason
		e.RequestID += detail.RequestID
	}
	return e
}
