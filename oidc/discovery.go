// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"

	"github.com/mayfly-ca/mayfly/internal/httputil"
)

// Fetch is one fetch from an issuer, for metrics.
type Fetch struct {
	// Entry is the issuer entry's key. IssuerURL is the issuer, which under a wildcard is text from
	// outside.
	Entry, IssuerURL string
	// Document is "discovery" or "keys".
	Document string
	// Duration is the time that the fetch took.
	Duration time.Duration
	// Err is nil if the document was read and accepted.
	Err error
}

// document holds the members that this package reads from a discovery document (OpenID Connect
// Discovery 1.0, section 3).
type document struct {
	jwksURI    string
	algorithms []string
}

// fetchKeys reads the discovery document, then the key set. If the document is unreadable now but
// was readable earlier, fetchKeys reads the key set at its last place and also returns the error.
func (s *source) fetchKeys(ctx context.Context) (*keys, error) {
	var doc document
	var discovery error
	err := s.observed("discovery", func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
		defer cancel()
		doc, err = s.discover(ctx)
		return err
	})
	seen := &keys{issuerURL: s.issuerURL, jwksURI: doc.jwksURI, algorithms: doc.algorithms}
	if err != nil {
		discovery = fmt.Errorf("discovering %s: %w", quote(s.issuerURL), err)
		if seen = s.current.Load(); seen == nil || ctx.Err() != nil {
			return nil, discovery
		}
	}
	k := *seen
	k.fetchedAt = s.now() // the age of the keys counts from the request, not from the answer
	err = s.observed("keys", func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
		defer cancel()
		k.list, k.interval, err = s.readKeySet(ctx, k.jwksURI)
		return err
	})
	if err != nil {
		return nil, errors.Join(discovery, fmt.Errorf("reading the key set of %s: %w", quote(s.issuerURL), err))
	}
	return &k, discovery
}

func (s *source) observed(document string, fetch func() error) error {
	start := s.now()
	err := fetch()
	if s.observe != nil {
		s.observe(Fetch{Entry: s.entry.Key, IssuerURL: s.issuerURL, Document: document, Duration: s.now().Sub(start), Err: err})
	}
	return err
}

// discover reads the discovery document; go-oidc compares its issuer with issuerURL, byte for byte.
func (s *source) discover(ctx context.Context) (document, error) {
	provider, err := gooidc.NewProvider(gooidc.ClientContext(ctx, s.entry.client), s.issuerURL)
	var mismatch *gooidc.IssuerMismatchError
	if errors.As(err, &mismatch) {
		return document{}, fmt.Errorf("the discovery document is that of issuer %s", quote(mismatch.Discovered))
	}
	if err != nil {
		return document{}, err
	}
	var members struct {
		JWKSURI    string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := provider.Claims(&members); err != nil {
		return document{}, fmt.Errorf("decoding: %w", err)
	}
	if s.entry.inCluster {
		// The document of an API server names an address that may be unreachable.
		members.JWKSURI = strings.TrimSuffix(s.issuerURL, "/") + "/openid/v1/jwks"
	}
	if err := s.checkJWKSURI(members.JWKSURI); err != nil {
		return document{}, err
	}
	return document{jwksURI: members.JWKSURI, algorithms: s.entry.accepted(members.Algorithms)}, nil
}

// accepted returns the algorithms of listed that this package supports and the entry accepts. If
// listed is empty, RS256 replaces it.
func (e *entry) accepted(listed []string) []string {
	var known []string
	for _, alg := range listed {
		if supportedAlgorithm(alg) && !slices.Contains(known, alg) {
			known = append(known, alg)
		}
	}
	if len(known) == 0 {
		known = []string{"RS256"} // Discovery, section 3, requires it
	}
	if len(e.SigningAlgorithms) == 0 {
		return known
	}
	return slices.DeleteFunc(known, func(alg string) bool { return !slices.Contains(e.SigningAlgorithms, alg) })
}

// checkJWKSURI checks that keys may be read at uri.
func (s *source) checkJWKSURI(uri string) error {
	u, err := url.Parse(uri)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Opaque != "" {
		return fmt.Errorf("jwks_uri %s is not a usable URL", quote(uri))
	}
	loopback := s.allowLoopback && httputil.IsLoopback(u.Hostname())
	insecure := strings.HasPrefix(s.issuerURL, "http:") && isListed(s.insecureHosts, u.Hostname())
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback && !insecure) {
		return fmt.Errorf("jwks_uri %s is not https", quote(uri))
	}
	// A wildcard trusts every host that it matches, but only for the issuers on that host.
	if !s.wildcard() && len(s.entry.JWKSHosts) == 0 {
		return nil
	}
	issuer, err := url.Parse(s.issuerURL)
	if err != nil {
		return fmt.Errorf("parsing issuer URL: %w", err)
	}
	host := hostPort(u)
	if host == hostPort(issuer) || slices.ContainsFunc(s.entry.JWKSHosts, func(h string) bool {
		return host == hostPort(&url.URL{Scheme: u.Scheme, Host: h})
	}) {
		return nil
	}
	return fmt.Errorf("jwks_uri %s is neither on the issuer's host nor on one of the entry's jwks-hosts", quote(uri))
}

// readKeySet fetches and decodes a JWK Set, and returns the interval until the next fetch.
func (s *source) readKeySet(ctx context.Context, uri string) (list []publicKey, interval time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("making request: %w", err)
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	resp, err := s.entry.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body) // guard limits the size
	if err != nil {
		return nil, 0, fmt.Errorf("reading body: %w", err)
	}
	list, ignored, err := parseKeySet(body, s.entry.SPIFFE)
	if err != nil {
		return nil, 0, err
	}
	before := s.current.Load()
	news := before == nil || len(before.list) != len(list)
	if ignored > 0 || len(list) == 0 {
		level := slog.LevelDebug
		if len(list) == 0 && news && !s.wildcard() {
			level = slog.LevelWarn // this process will accept none of its tokens
		}
		s.logger.LogAttrs(ctx, level, "keys in a key set cannot verify signatures and are ignored",
			slog.String("issuer_url", s.issuerURL), slog.Int("ignored", ignored), slog.Int("used", len(list)))
	}
	if len(list) > maxKeys && news && (!s.wildcard() || s.pool.lines.Take(netip.Addr{}, s.now())) {
		s.logger.WarnContext(ctx, "a key set is unusually large; a token without a kid is tried with its first keys only",
			"issuer_url", s.issuerURL, "keys", len(list), "tried", maxKeys)
	}
	interval = refreshInterval(resp.Header, s.refresh)
	if s.wildcard() { // a use refreshes keys of half this age
		interval = max(interval, min(2*minRefresh, s.refresh))
	}
	return list, interval, nil
}
