// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"bytes"
	"context"
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
	"slices"
	"strings"
	"sync/atomic"
	"time"

	ct "github.com/google/certificate-transparency-go"

	"github.com/mayfly-ca/mayfly/internal/httputil"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

const (
	// maxResponse bounds how much of an answer is read; one with an SCT has about 300 bytes.
	maxResponse = 64 << 10
	// maxRootsResponse bounds the answer to get-roots; logs of the Web PKI list hundreds.
	maxRootsResponse = 8 << 20
	// maxExcerpt bounds how much an error quotes of an answer that was not 200.
	maxExcerpt = 200
	// connectTimeout bounds each of dialling and the TLS handshake.
	connectTimeout = 2 * time.Second
	// attemptTimeout bounds an attempt if its context has no deadline of its own; readTimeout is for
	// answers of megabytes.
	attemptTimeout = 10 * time.Second
	readTimeout    = time.Minute
	// idleConnections is the maximum number of connections, all of which are kept open when idle:
	// one for each request that may be in flight on a busy server.
	idleConnections = 128
)

// RemoteConfig states how to reach a log over HTTP.
type RemoteConfig struct {
	// URL is the log's base URL (static-ct-api: the submission prefix), without /ct/v1. It is https.
	// http is for logs on this machine or inside a cluster, where it causes a warning: an attacker
	// can then delay or drop a log's answers, but not forge them.
	URL string
	// Token is sent as a bearer token with each request; nil for none. Public logs need none; an
	// embedded log of another replica does. It is never sent over plain http to another machine.
	Token []byte
	// RootCAs are the roots that verify the log's TLS certificate; nil for the system's.
	RootCAs *x509.CertPool
	// Reads is for a client that reads the whole log: compressed answers, and a minute for each.
	Reads bool
	// Now is the clock against which a Retry-After date is read; nil for time.Now.
	Now func() time.Time
}

// Remote is a log behind RFC 6962's HTTP API, which static-ct-api logs share for
// submissions. It implements Log.
type Remote struct {
	name        string
	header      http.Header   // of every request; never changed
	addPreChain *http.Request // without its body; a submission sends a copy
	issuers     atomic.Pointer[encodedChain]
	client      atomic.Pointer[http.Client]
	cfg         RemoteConfig
	now         func() time.Time
}

// encodedChain is the chain of a CA as it is in the JSON of a submission. It is immutable.
type encodedChain struct {
	issuers [][]byte
	json    []byte
}

// NewRemote returns a log that is reached over HTTP. It sends no request. The warnings and
// errors have the key path ["url"].
func NewRemote(cfg RemoteConfig) (log *Remote, warnings []error, err error) {
	base, err := parseURL(cfg.URL)
	if err != nil {
		return nil, nil, keypath.Errorf([]string{"url"}, "%w", err)
	}
	if base.Scheme == "http" && !httputil.IsLoopback(base.Hostname()) {
		if len(cfg.Token) > 0 {
			return nil, nil, keypath.Errorf([]string{"url"}, "the log %s wants a token and is reached without TLS, where others could read it; use https", base)
		}
		warnings = append(warnings, keypath.Errorf([]string{"url"},
			"the log %s is reached without TLS; use https unless the network between is yours alone", base))
	}
	log = &Remote{name: base.String(), header: http.Header{"Accept": {"application/json"}, "User-Agent": {"mayfly"}}, cfg: cfg, now: cfg.Now}
	log.client.Store(newClient(cfg))
	if log.now == nil {
		log.now = time.Now
	}
	if len(cfg.Token) > 0 {
		log.header.Set("Authorization", "Bearer "+string(cfg.Token))
	}
	if log.addPreChain, err = http.NewRequest(http.MethodPost, log.name+ct.AddPreChainPath, nil); err != nil {
		return nil, nil, keypath.Errorf([]string{"url"}, "%w", err)
	}
	header := log.header.Clone()
	header.Set("Content-Type", "application/json")
	// net/http does not send a header that is present but empty, but may then send the
	// request again where the log has just closed an idle connection.
	header["Idempotency-Key"] = []string{}
	log.addPreChain.Header = header
	return log, warnings, nil
}

func newClient(cfg RemoteConfig) *http.Client {
	timeout := attemptTimeout
	if cfg.Reads {
		timeout = readTimeout
	}
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}
	return &http.Client{
		Timeout: timeout,
		// A redirect would turn the POST into a GET or send it elsewhere; it is an
		// answer like any other that is not 200.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         dialer.DialContext,
			TLSClientConfig:     &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: connectTimeout,
			ForceAttemptHTTP2:   true,
			DisableCompression:  !cfg.Reads,
			MaxIdleConnsPerHost: idleConnections,
			MaxConnsPerHost:     idleConnections, // package app reserves file descriptors for them
			IdleConnTimeout:     90 * time.Second,
			WriteBufferSize:     8 << 10, // a whole submission is one write
			// A connection that broke silently would otherwise hold all requests until TCP
			// gives it up.
			HTTP2: &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: connectTimeout},
			// The default of 1 MiB is more than an answer may have.
			MaxResponseHeaderBytes: maxResponse,
		},
	}
}

// parseURL returns raw without its trailing slashes.
func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the log's URL cannot be read: %w; it must be https://HOST/PATH", errors.Unwrap(err))
	case u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "", u.User != nil, u.RawQuery != "", u.ForceQuery, strings.Contains(raw, "#"),
		strings.Contains(u.Path+"/", "/ct/v1/"):
		return nil, fmt.Errorf("the log's URL is %.100q; it must be https://HOST/PATH, without a user name, query, fragment and the API's path /ct/v1", u.Redacted())
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), strings.TrimRight(u.RawPath, "/")
	return u, nil
}

// Name returns the log's base URL.
func (r *Remote) Name() string { return r.name }

// CloseIdleConnections closes the idle connections of a log that is no longer used.
func (r *Remote) CloseIdleConnections() { r.client.Load().CloseIdleConnections() }

// UseRoots replaces the roots that verify the log's TLS certificate. Requests that are waiting for an
// answer keep their connections. Calls of it never overlap.
func (r *Remote) UseRoots(roots *x509.CertPool) {
	cfg := r.cfg
	cfg.RootCAs = roots
	r.client.Swap(newClient(cfg)).CloseIdleConnections()
}

// StatusError is an answer with a status other than 200.
type StatusError struct {
	StatusCode int
	// Body is the beginning of the answer's body, unfiltered: for logs, in quotes.
	Body string
}

// Error returns the status and the beginning of the body.
func (e *StatusError) Error() string {
	return fmt.Sprintf("the log answered %d %s: %q", e.StatusCode, http.StatusText(e.StatusCode), e.Body)
}

func statusError(resp *http.Response, body []byte) error {
	return &StatusError{StatusCode: resp.StatusCode, Body: string(body[:min(len(body), maxExcerpt)])}
}

// Submit posts the chain to add-pre-chain (RFC 6962, section 4.2). It returns a
// *RetryableError for an answer of 429 or 503, and for a connection that fails before an
// answer.
func (r *Remote) Submit(ctx context.Context, sub Submission) (SCT, error) {
	if len(sub.Chain) == 0 {
		return SCT{}, errors.New("the submission has no certificate")
	}
	body := r.encode(sub.Chain)
	req := r.addPreChain.WithContext(ctx)
	req.ContentLength = int64(len(body))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	req.Body, _ = req.GetBody()
	answer, err := r.do(req, maxResponse)
	if err != nil {
		return SCT{}, err
	}
	return parseAddChainResponse(answer)
}

// encode returns the body of add-pre-chain: {"chain": ["BASE64", …]} (RFC 6962, section 4.1). Only
// the precertificate is new each time: r keeps the rest for as long as the same authority signs.
func (r *Remote) encode(chain [][]byte) []byte {
	last := r.issuers.Load()
	if last == nil || !slices.EqualFunc(last.issuers, chain[1:], bytes.Equal) {
		last = &encodedChain{issuers: slices.Clone(chain[1:])}
		for _, der := range last.issuers {
			last.json = appendBase64(append(last.json, ','), der)
		}
		r.issuers.Store(last)
	}
	b := make([]byte, 0, len(`{"chain":[""]}`)+base64.StdEncoding.EncodedLen(len(chain[0]))+len(last.json))
	b = appendBase64(append(b, `{"chain":[`...), chain[0])
	return append(append(b, last.json...), "]}"...)
}

func appendBase64(b, der []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(append(b, '"'), der), '"')
}

// do returns the answer to a request, of at most most bytes. Any status but 200 is a *StatusError.
func (r *Remote) do(req *http.Request, most int) ([]byte, error) {
	resp, err := r.client.Load().Do(req)
	if err != nil {
		return nil, connectionError(req.Context(), err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, int64(most)+1))
	switch {
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable:
		return nil, &RetryableError{After: httputil.RetryAfter(resp.Header, r.now()), Err: statusError(resp, answer)}
	case resp.StatusCode != http.StatusOK:
		return nil, statusError(resp, answer)
	case err != nil:
		return nil, fmt.Errorf("reading the log's answer: %w", err)
	case len(answer) > most:
		return nil, fmt.Errorf("the log's answer has more than %d bytes", most)
	}
	return answer, nil
}

// connectionError returns the error of a request without an answer. It is retryable unless
// the time is up or the log's certificate is wrong.
func connectionError(ctx context.Context, err error) error {
	var timeout net.Error
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("waiting for the log: %w", err)
	case errors.As(err, new(*tls.CertificateVerificationError)), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("connecting to the log: %w", err)
	default:
		return &RetryableError{Err: fmt.Errorf("connecting to the log: %w", err)}
	}
}

// parseAddChainResponse reads the JSON answer to add-chain and add-pre-chain (RFC 6962, section
// 4.1): sct_version, id, timestamp, extensions, and as signature a DigitallySigned.
func parseAddChainResponse(body []byte) (SCT, error) {
	var resp ct.AddChainResponse
	err := json.Unmarshal(body, &resp)
	extensions, errExtensions := base64.StdEncoding.DecodeString(resp.Extensions)
	signature, errSignature := parseDigitallySigned(resp.Signature)
	switch {
	case err != nil:
	case errExtensions != nil:
		err = fmt.Errorf("extensions: %w", errExtensions)
	case resp.SCTVersion != ct.V1 || len(resp.ID) != len(SCT{}.LogID):
		err = fmt.Errorf("sct_version is %d, and id has %d bytes; 0 (v1) and 32 are expected", resp.SCTVersion, len(resp.ID))
	default:
		err = errSignature
	}
	if err != nil {
		return SCT{}, fmt.Errorf("parsing the log's answer: %w", err)
	}
	return SCT{LogID: [32]byte(resp.ID), Timestamp: resp.Timestamp, Extensions: extensions, Signature: signature}, nil
}

// Get returns the answer to a request for a path below the log's URL, of at most most bytes.
func (r *Remote) Get(ctx context.Context, path string, most int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.name+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header = r.header
	body, err := r.do(req, most)
	if err != nil {
		return nil, fmt.Errorf("asking the log %s for %s: %w", r.name, path, err)
	}
	return body, nil
}

// get parses the JSON answer to a request of at most most bytes.
func (r *Remote) get(ctx context.Context, path string, most int, answer any) error {
	body, err := r.Get(ctx, path, most)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("asking the log %s for %s: %w", r.name, path, err)
	}
	return nil
}

// Roots asks the log which roots it accepts (RFC 6962, section 4.7), each as DER.
func (r *Remote) Roots(ctx context.Context) ([][]byte, error) {
	var roots struct {
		Certificates [][]byte `json:"certificates"`
	}
	err := r.get(ctx, ct.GetRootsPath, maxRootsResponse, &roots)
	return roots.Certificates, err
}

// TreeHead asks the log for its newest tree head (RFC 6962, section 4.3), and verifies it with key
// unless that is nil. A head that another key signed is an *InvalidError; a log without get-sth,
// such as a static-ct-api log, is a *StatusError.
func (r *Remote) TreeHead(ctx context.Context, key *PublicKey) (*ct.SignedTreeHead, error) {
	var answer ct.GetSTHResponse
	if err := r.get(ctx, ct.GetSTHPath, maxResponse, &answer); err != nil {
		return nil, err
	}
	head, err := answer.ToSignedTreeHead()
	if err != nil {
		return nil, fmt.Errorf("parsing the tree head of the log %s: %w", r.name, err)
	}
	if key != nil {
		if err := key.VerifyTreeHead(*head); err != nil {
			return nil, &InvalidError{Err: err}
		}
	}
	return head, nil
}

// Checkpoint asks the log for its newest checkpoint (static-ct-api, section "Checkpoints"), and
// does not verify it.
func (r *Remote) Checkpoint(ctx context.Context) ([]byte, error) {
	return r.Get(ctx, "/checkpoint", maxResponse)
}
