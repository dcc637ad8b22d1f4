// SPDX-License-Identifier: Apache-2.0

package oidc

import (
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

	gooidc "github.com/coreos/go-oidc/v3/oidc"

	"github.com/mayfly-ca/mayfly/internal/httputil"
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
func (i *issuer) read(client *http.Client) (k *keys, err error) {
	defer func() {
		if p := recover(); p != nil {
			k, err = nil, fmt.Errorf("panic while reading the issuer's answer: %v", p)
		}
	}()
	i.mu.Lock()
	last := i.keys
	i.mu.Unlock()
	next := keys{issuerURL: i.url}
	discovery := i.timed("discovery", func(ctx context.Context) (err error) {
		next.jwksURI, next.algorithms, err = i.discover(gooidc.ClientContext(ctx, client))
		return err
	})
	if discovery != nil {
		discovery = fmt.Errorf("discovering %s: %w", quote(i.url), discovery)
		if last == nil {
			return nil, discovery
		}
		next.jwksURI, next.algorithms = last.jwksURI, last.algorithms
	}
	next.fetchedAt = i.cfg.Now() // the age of the keys counts from the request, not from the answer
	err = i.timed("keys", func(ctx context.Context) (err error) {
		next.list, err = i.readKeySet(ctx, client, next.jwksURI, last)
		return err
	})
	if err != nil {
		return nil, errors.Join(discovery, fmt.Errorf("reading the key set of %s: %w", quote(i.url), err))
	}
	return &next, discovery
}

// timed runs the fetch of a document within fetchTimeout, and reports it to Config.ObserveFetch.
func (i *issuer) timed(document string, fetch func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	start := i.cfg.Now()
	err := fetch(ctx)
	if i.cfg.ObserveFetch != nil {
		i.cfg.ObserveFetch(Fetch{Entry: i.entry.Key, Document: document, Duration: i.cfg.Now().Sub(start), Err: err})
	}
	return err
}

// discover reads the discovery document (OpenID Connect Discovery 1.0, section 3); go-oidc compares
// its issuer with the issuer URL, byte for byte.
func (i *issuer) discover(ctx context.Context) (jwksURI string, algorithms []string, err error) {
	provider, err := gooidc.NewProvider(ctx, i.url)
	var mismatch *gooidc.IssuerMismatchError
	if errors.As(err, &mismatch) {
		return "", nil, fmt.Errorf("the discovery document is that of issuer %s", quote(mismatch.Discovered))
	}
	if err != nil {
		return "", nil, err
	}
	var members struct {
		JWKSURI    string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := provider.Claims(&members); err != nil {
		return "", nil, fmt.Errorf("decoding: %w", err)
	}
	if i.entry.inCluster {
		// The document of an API server names an address that may be unreachable.
		members.JWKSURI = strings.TrimSuffix(i.url, "/") + "/openid/v1/jwks"
	}
	return members.JWKSURI, i.entry.accepted(members.Algorithms), i.checkJWKSURI(members.JWKSURI)
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
func (i *issuer) checkJWKSURI(uri string) error {
	u, err := url.Parse(uri)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Opaque != "" {
		return fmt.Errorf("jwks_uri %s is not a usable URL", quote(uri))
	}
	loopback := i.cfg.AllowLoopback && httputil.IsLoopback(u.Hostname())
	insecure := strings.HasPrefix(i.url, "http:") && isListed(i.cfg.InsecureHosts, u.Hostname())
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback && !insecure) {
		return fmt.Errorf("jwks_uri %s is not https", quote(uri))
	}
	// A wildcard trusts every host that it matches, but only for the issuers on that host.
	if i.pool == nil && len(i.entry.JWKSHosts) == 0 {
		return nil
	}
	issuer, err := url.Parse(i.url)
	if err != nil {
		return fmt.Errorf("parsing issuer URL: %w", err)
	}
	host := hostPort(u)
	if host == hostPort(issuer) || slices.ContainsFunc(i.entry.JWKSHosts, func(h string) bool {
		return host == hostPort(&url.URL{Scheme: u.Scheme, Host: h})
	}) {
		return nil
	}
	return fmt.Errorf("jwks_uri %s is neither on the issuer's host nor on one of the entry's jwks-hosts", quote(uri))
}

// readKeySet fetches and decodes a JWK Set. last are the keys before, or nil.
func (i *issuer) readKeySet(ctx context.Context, client *http.Client, uri string, last *keys) ([]publicKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, fmt.Errorf("creating request: %w", err)
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body) // guard limits the size
	if err != nil {
		return nil, fmt.Errorf("reading body: %w", err)
	}
	list, ignored, err := parseKeySet(body, i.entry.SPIFFE)
	if err != nil {
		return nil, err
	}
	attrs := []slog.Attr{slog.String("issuer_url", i.url), slog.Int("used", len(list)), slog.Int("ignored", ignored)}
	changed := last == nil || len(last.list) != len(list)
	switch {
	case len(list) > maxKeys && changed && i.mayLog():
		i.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "a key set is unusually large; a token without a kid is tried with its first 64 keys only", attrs...)
	case len(list) == 0 && changed && i.pool == nil:
		i.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "a key set has no key that can verify signatures; all tokens of its issuer are refused", attrs...)
	case ignored > 0:
		i.cfg.Logger.LogAttrs(ctx, slog.LevelDebug, "keys in a key set cannot verify signatures and are ignored", attrs...)
	}
	return list, nil
}
