// SPDX-License-Identifier: Apache-2.0

// Package client asks a keyless CA for a certificate, over REST v2 or gRPC, by signed
// challenge or by CSR. It serves `mayfly request`, and may be imported by cmd and tests.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	_ "crypto/sha256" // for crypto.Hash
	_ "crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/internal/pem"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
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
	return &Client{base, config.GRPC, tlsConfig, &http.Client{
		Timeout: timeout,
		// The token is for the CA that the caller named: net/http would send it to a subdomain, and
		// from https to http.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment},
	}}, nil
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
		text += " (" + e.Reason + "), request " + e.RequestID
	}
	return text
}

// SigningCertificate asks for a certificate. It returns a refusal of the CA as an *Error.
func (c *Client) SigningCertificate(ctx context.Context, req Request) (*Certificate, error) {
	request, err := prove(req)
	if err != nil {
		return nil, err
	}
	ask := c.overREST
	if c.grpc {
		ask = c.overGRPC
	}
	answer, err := ask(ctx, req.IDToken, request)
	if err != nil {
		return nil, err
	}
	detached := answer.GetSignedCertificateDetachedSct()
	certificate := &Certificate{PEM: answer.GetSignedCertificateEmbeddedSct().GetChain().GetCertificates(), DetachedSCT: detached.GetSignedCertificateTimestamp()}
	if detached != nil {
		certificate.PEM = detached.GetChain().GetCertificates()
	}
	if len(certificate.PEM) == 0 {
		return nil, errors.New("the CA's answer holds no certificate")
	}
	return certificate, nil
}

// prove returns a request with the key and its proof of possession, without the token.
func prove(req Request) (*fulciov2.CreateSigningCertificateRequest, error) {
	if req.CSR {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, req.Signer)
		if err != nil {
			return nil, fmt.Errorf("creating a certificate signing request: %w", err)
		}
		return &fulciov2.CreateSigningCertificateRequest{Key: &fulciov2.CreateSigningCertificateRequest_CertificateSigningRequest{
			CertificateSigningRequest: pem.Encode("CERTIFICATE REQUEST", der),
		}}, nil
	}
	challenge, err := req.Challenge, error(nil)
	if challenge == "" {
		if challenge, err = challengeOf(req.IDToken); err != nil {
			return nil, err
		}
	}
	spki, errKey := x509.MarshalPKIXPublicKey(req.Signer.Public())
	signature, err := signChallenge(req.Signer, challenge)
	if err := errors.Join(errKey, err); err != nil {
		return nil, fmt.Errorf("signing the challenge: %w", err)
	}
	return &fulciov2.CreateSigningCertificateRequest{Key: &fulciov2.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciov2.PublicKeyRequest{
		PublicKey:         &fulciov2.PublicKey{Content: string(pem.Encode("PUBLIC KEY", spki))},
		ProofOfPossession: signature,
	}}}, nil
}

// challengeOf reads, without verifying, the claim of the token that clients sign.
func challengeOf(token string) (string, error) {
	var claims struct {
		Email   string `json:"email"`
		Subject string `json:"sub"`
	}
	if parts := strings.Split(strings.TrimSpace(token), "."); len(parts) == 3 {
		payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
		_ = json.Unmarshal(payload, &claims) // a mistake leaves both claims empty
	}
	if challenge := cmp.Or(claims.Email, claims.Subject); challenge != "" {
		return challenge, nil
	}
	return "", errors.New("the ID token is not a JWT with the claim email or the claim sub")
}

func signChallenge(signer crypto.Signer, challenge string) ([]byte, error) {
	hash := crypto.SHA256
	switch key := signer.Public().(type) {
	case ed25519.PublicKey:
		return signer.Sign(rand.Reader, []byte(challenge), crypto.Hash(0))
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P384():
			hash = crypto.SHA384
		case elliptic.P521():
			hash = crypto.SHA512
		}
	}
	return crypto.SignMessage(signer, rand.Reader, []byte(challenge), hash)
}

func (c *Client) overREST(ctx context.Context, token string, req *fulciov2.CreateSigningCertificateRequest) (*fulciov2.SigningCertificate, error) {
	encoded, err := protojson.Marshal(req)
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
	data, err := io.ReadAll(io.LimitReader(response.Body, maxResponseSize))
	if err != nil {
		return nil, fmt.Errorf("reading the CA's answer: %w", err)
	}
	lenient := protojson.UnmarshalOptions{DiscardUnknown: true}
	if response.StatusCode != http.StatusOK {
		var refused spb.Status
		if err := lenient.Unmarshal(data, &refused); err != nil || refused.GetMessage() == "" {
			return nil, &Error{Message: fmt.Sprintf("it answers %s; is this the URL of a keyless CA?", response.Status)}
		}
		return nil, refusal(&refused)
	}
	var answer fulciov2.SigningCertificate
	if err := lenient.Unmarshal(data, &answer); err != nil {
		return nil, fmt.Errorf("decoding the CA's answer: %w", err)
	}
	return &answer, nil
}

func (c *Client) overGRPC(ctx context.Context, token string, req *fulciov2.CreateSigningCertificateRequest) (*fulciov2.SigningCertificate, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	transport, port := credentials.NewTLS(c.tls), "443"
	if c.base.Scheme == "http" {
		transport, port = insecure.NewCredentials(), "80"
	}
	target := net.JoinHostPort(c.base.Hostname(), cmp.Or(c.base.Port(), port))
	connection, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponseSize)))
	if err != nil {
		return nil, fmt.Errorf("asking the CA: %w", err)
	}
	defer connection.Close()
	req.Credentials = &fulciov2.Credentials{Credentials: &fulciov2.Credentials_OidcIdentityToken{OidcIdentityToken: token}}
	answer, err := fulciov2.NewCAClient(connection).CreateSigningCertificate(ctx, req)
	if err != nil {
		if e := refusal(status.Convert(err).Proto()); e.Reason != "" {
			return nil, e
		}
		return nil, fmt.Errorf("asking the CA: %w", err)
	}
	return answer, nil
}

// refusal reads reason and request ID from the details of a status.
func refusal(s *spb.Status) *Error {
	e := &Error{Message: s.GetMessage()}
	for _, detail := range status.FromProto(s).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			e.Reason = detail.GetReason()
		case *errdetails.RequestInfo:
			e.RequestID = detail.GetRequestId()
		}
	}
	return e
}
