// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/mayfly-ca/mayfly/internal/httputil"
)

// Limits on one fetch.
const (
	maxDocument  = 256 << 10 // bytes of a discovery document or key set
	maxRedirects = 3
	fetchTimeout = 5 * time.Second
)

// Fetch is one fetch from an issuer, for metrics.
type Fetch struct {
	// Entry is Issuer.Key.
	Entry string
	// Document is "discovery" or "keys".
	Document string
	Duration time.Duration
	// Err is nil if the document was read and accepted.
	Err error
}

// read reads the discovery document, then the key set. If the document is unreadable now but was
// readable earlier, read reads the key set at its last place and also returns the error. It treats a
// panic of a parser as a failure of the issuer; the process continues.
func (i *issuer) read(last *keys) (k *keys, err error) {
	defer func() {
		if p := recover(); p != nil {
			k, err = nil, fmt.Errorf("panic while reading the issuer's answer: %v", p)
		}
	}()
	next := &keys{issuerURL: i.url}
	discovery := i.document("discovery", strings.TrimSuffix(i.url, "/")+"/.well-known/openid-configuration", func(body []byte) error {
		return i.discover(body, next)
	})
	if discovery != nil {
		if last == nil {
			return nil, discovery
		}
		next.jwksURI, next.algorithms = last.jwksURI, last.algorithms
	}
	next.fetchedAt = i.cfg.Now() // the age of the keys counts from the request, not from the answer
	err = i.document("keys", next.jwksURI, func(body []byte) (err error) {
		most := len(body)
		if i.pool != nil { // callers choose the issuers, of which many are kept
			most = maxKeys
		}
		next.list, err = parseKeySet(body, i.entry.SPIFFE, most)
		return err
	})
	if err != nil {
		return nil, errors.Join(discovery, err)
	}
	if n := len(next.list); n >= maxKeys && (last == nil || n != len(last.list)) && i.mayLog() {
		i.cfg.Logger.LogAttrs(context.Background(), slog.LevelWarn, "a key set is unusually large; a token without a kid is tried with its first 64 keys, and of an issuer under a pattern no others are kept",
			slog.String("issuer_url", i.url), slog.Int("used", n))
	}
	return next, discovery
}

// document gets a document within fetchTimeout, passes it to parse, and reports the fetch to
// Config.ObserveFetch.
func (i *issuer) document(name, at string, parse func(body []byte) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	start := i.cfg.Now()
	body, err := get(ctx, i.entry.client, at)
	if err == nil {
		err = parse(body)
	}
	if err != nil {
		err = fmt.Errorf("reading %s %s: %w", name, quote(at), err)
	}
	if i.cfg.ObserveFetch != nil {
		i.cfg.ObserveFetch(Fetch{Entry: i.entry.Key, Document: name, Duration: i.cfg.Now().Sub(start), Err: err})
	}
	return err
}

// get returns the document at a URL. Errors do not contain the answer.
func get(ctx context.Context, client *http.Client, at string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, fmt.Errorf("creating request: %w", err)
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("unexpected status %d", resp.StatusCode)
	}
	return readDocument(resp)
}

// readDocument reads a body of at most maxDocument bytes, compressed or not, and no byte more than
// necessary. It skips a byte order mark, which a reader of JSON may ignore (RFC 8259, section 8.1)
// and a JSON decoder refuses.
func readDocument(resp *http.Response) ([]byte, error) {
	body := io.LimitReader(resp.Body, maxDocument+1)
	// Some servers have only a compressed copy, and send it without a request for it.
	if strings.EqualFold(resp.Header.Get("Content-Encoding"), "gzip") {
		unzipped, err := gzip.NewReader(bufio.NewReader(body))
		if err != nil {
			return nil, fmt.Errorf("decompressing the body: %w", err)
		}
		body = io.LimitReader(unzipped, maxDocument+1)
	}
	document, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	if len(document) > maxDocument {
		return nil, fmt.Errorf("the body exceeds %d bytes", maxDocument)
	}
	return bytes.TrimPrefix(document, []byte("\ufeff")), nil
}

// discover parses the discovery document (OpenID Connect Discovery 1.0, section 3), whose issuer must
// be the issuer URL, byte for byte.
func (i *issuer) discover(body []byte, next *keys) error {
	var document struct {
		Issuer     string   `json:"issuer"`
		JWKSURI    string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := json.Unmarshal(body, &document, lenient); err != nil {
		return fmt.Errorf("decoding: %w", err)
	}
	if document.Issuer != i.url {
		return fmt.Errorf("the discovery document is that of issuer %s", quote(document.Issuer))
	}
	next.jwksURI, next.algorithms = document.JWKSURI, i.entry.accepted(document.Algorithms)
	if i.entry.inCluster {
		// The document of an API server names an address that may be unreachable.
		next.jwksURI = strings.TrimSuffix(i.url, "/") + "/openid/v1/jwks"
	}
	return i.checkJWKSURI(next.jwksURI)
}

// accepted returns the algorithms of listed that this package supports and the entry accepts. If
// it supports none of them, RS256 replaces them.
func (e *entry) accepted(listed []string) []string {
	known := slices.DeleteFunc(listed, func(alg string) bool { return !supportedAlgorithm(alg) })
	if len(known) == 0 {
		known = []string{"RS256"} // Discovery, section 3, requires it
	}
	return slices.DeleteFunc(known, func(alg string) bool {
		return len(e.SigningAlgorithms) > 0 && !slices.Contains(e.SigningAlgorithms, alg)
	})
}

// checkJWKSURI checks that keys may be read at uri. A wildcard trusts every host that it matches, but
// only for the issuers on that host.
func (i *issuer) checkJWKSURI(uri string) error {
	u, err := url.Parse(uri)
	if err != nil || u.Hostname() == "" || u.User != nil {
		return fmt.Errorf("jwks_uri %s is not a usable URL", quote(uri))
	}
	loopback := i.cfg.AllowLoopback && httputil.IsLoopback(u.Hostname())
	insecure := strings.HasPrefix(i.url, "http:") && isListed(i.cfg.InsecureHosts, u.Hostname())
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback && !insecure) {
		return fmt.Errorf("jwks_uri %s is not https", quote(uri))
	}
	anywhere := i.pool == nil && len(i.entry.JWKSHosts) == 0
	if !anywhere && origin(u) != originOf(i.url) && !slices.ContainsFunc(i.entry.JWKSHosts, func(host string) bool {
		return origin(u) == originOf(u.Scheme+"://"+host)
	}) {
		return fmt.Errorf("jwks_uri %s is neither on the issuer's host nor on one of the entry's jwks-hosts", quote(uri))
	}
	return nil
}
