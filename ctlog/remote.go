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
	"strings"
	"time"

	ct "github.com/google/certificate-transparency-go"

	"github.com/mayfly-ca/mayfly/internal/httputil"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

const (
	// maxResponse bounds how much of an answer is read; one with an SCT has about 300 bytes.
	maxResponse = 64 << 10
	// maxExcerpt bounds how much an error quotes of an answer that was not 200.
	maxExcerpt = 200
	// connectTimeout bounds each of dialling and the TLS handshake.
	connectTimeout = 2 * time.Second
	// attemptTimeout bounds an attempt if its context has no deadline of its own.
	attemptTimeout = 10 * time.Second
	// idleConnections is the maximum number of connections, all of which are kept open when idle:
	// one for each request that may be in flight on a busy server.
	idleConnections = 128
)

// RemoteConfig states how to reach a log over HTTP.
type RemoteConfig struct {
	// URL is the log's base URL (static-ct-api: the submission prefix), without /ct/v1. It is
	// https. http is for logs on this machine or inside a cluster; inside a cluster it causes
	// a warning, since an attacker can then delay or drop a log's answers (but not forge
	// them). A trailing slash makes no difference.
	URL string
	// Token is sent as a bearer token with each request; nil for none. Public logs need none;
	// an embedded log of another replica does. The token is never sent over plain http to
	// another machine.
	Token []byte
	// RootCAs are the roots that verify the log's TLS certificate; nil for the system's.
	RootCAs *x509.CertPool
	// Now is the clock against which a Retry-After date is read; nil for time.Now.
	Now func() time.Time
}

// Remote is a log behind RFC 6962's HTTP API, which static-ct-api logs share for
// submissions. It implements Log.
type Remote struct {
	name   string
	token  string
	client *http.Client
	now    func() time.Time
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
	now := cfg.Now
	if now == nil {
		now = time.Now
	}
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}
	return &Remote{
		name:  base.String(),
		token: string(cfg.Token),
		now:   now,
		client: &http.Client{
			Timeout: attemptTimeout,
			// A redirect would turn the POST into a GET or send it elsewhere; it is an
			// answer like any other that is not 200.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport: &http.Transport{
				Proxy:               http.ProxyFromEnvironment,
				DialContext:         dialer.DialContext,
				TLSClientConfig:     &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12},
				TLSHandshakeTimeout: connectTimeout,
				ForceAttemptHTTP2:   true,
				DisableCompression:  true,
				MaxIdleConnsPerHost: idleConnections,
				MaxConnsPerHost:     idleConnections, // package app reserves file descriptors for them
				IdleConnTimeout:     90 * time.Second,
				// A connection that broke silently would otherwise hold all requests until TCP
				// gives it up.
				HTTP2: &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: connectTimeout},
				// The default of 1 MiB is more than an answer may have.
				MaxResponseHeaderBytes: maxResponse,
			},
		},
	}, warnings, nil
}

// parseURL returns raw without its trailing slashes, or a sentence that states what to
// change.
func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return nil, errors.New("the log's URL is missing")
	case err != nil:
		return nil, fmt.Errorf("the log's URL cannot be read: %w", errors.Unwrap(err))
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("the log's URL %.100q should begin with https://", u.Redacted())
	case u.User != nil:
		return nil, fmt.Errorf("the log's URL %.100q holds a user name or password; logs take none", u.Redacted())
	case u.Hostname() == "":
		return nil, fmt.Errorf("the log's URL %.100q has no host", raw)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(raw, "#"):
		return nil, fmt.Errorf("the log's URL %.100q holds a query or a fragment; it should end with its path", raw)
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), strings.TrimRight(u.RawPath, "/")
	if base, _, found := strings.Cut(u.String()+"/", "/ct/v1/"); found {
		return nil, fmt.Errorf("the log's URL %.100q holds the API's path; give %.100q alone", raw, base)
	}
	return u, nil
}

// Name returns the log's base URL.
func (r *Remote) Name() string { return r.name }

// CloseIdleConnections closes the idle connections, for instance after a new configuration
// has replaced this log.
func (r *Remote) CloseIdleConnections() { r.client.CloseIdleConnections() }

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

// Submit posts the chain to add-pre-chain (RFC 6962, section 4.2). It returns a
// *RetryableError for an answer of 429 or 503, and for a connection that fails before an
// answer.
func (r *Remote) Submit(ctx context.Context, sub Submission) (SCT, error) {
	body, err := json.Marshal(ct.AddChainRequest{Chain: sub.Chain})
	if err != nil {
		return SCT{}, fmt.Errorf("encoding add-pre-chain request: %w", err)
	}
	answer, err := r.do(ctx, http.MethodPost, ct.AddPreChainPath, body, maxResponse)
	if err != nil {
		return SCT{}, err
	}
	return parseAddChainResponse(answer)
}

// do returns the answer to a request, of at most most bytes. Any status but 200 is a *StatusError.
func (r *Remote) do(ctx context.Context, method, path string, body []byte, most int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.name+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "mayfly")
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
		// net/http does not send a header that is present but empty, but may then send the
		// request again where the log has just closed an idle connection.
		req.Header["Idempotency-Key"] = []string{}
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, connectionError(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, int64(most)+1))
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, r.statusError(resp, answer)
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

func (r *Remote) statusError(resp *http.Response, body []byte) error {
	err := &StatusError{StatusCode: resp.StatusCode, Body: string(body[:min(len(body), maxExcerpt)])}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return &RetryableError{After: httputil.RetryAfter(resp.Header, r.now()), Err: err}
	default:
		return err
	}
}

// parseAddChainResponse reads the JSON answer to add-chain and add-pre-chain (RFC 6962, section
// 4.1): sct_version, id, timestamp, extensions, and as signature a DigitallySigned.
func parseAddChainResponse(body []byte) (SCT, error) {
	var resp ct.AddChainResponse
	if err := json.Unmarshal(body, &resp); err != nil {
		return SCT{}, fmt.Errorf("parsing the log's answer: %w", err)
	}
	if resp.SCTVersion != ct.V1 {
		return SCT{}, fmt.Errorf("parsing the log's answer: sct_version is %d, not 0 (v1)", resp.SCTVersion)
	}
	if len(resp.ID) != len(SCT{}.LogID) {
		return SCT{}, fmt.Errorf("parsing the log's answer: id has %d bytes, not 32", len(resp.ID))
	}
	sct := SCT{LogID: [32]byte(resp.ID), Timestamp: resp.Timestamp}
	extensions, err := base64.StdEncoding.DecodeString(resp.Extensions)
	if err != nil {
		return SCT{}, fmt.Errorf("parsing the log's answer: extensions: %w", err)
	}
	if len(extensions) > 0 {
		sct.Extensions = extensions
	}
	if sct.Signature, err = parseDigitallySigned(resp.Signature); err != nil {
		return SCT{}, fmt.Errorf("parsing the log's answer: %w", err)
	}
	return sct, nil
}
