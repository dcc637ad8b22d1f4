// SPDX-License-Identifier: Apache-2.0

// Package oidc turns a raw ID token into a verified Token. It finds the configured issuer entry,
// discovers the issuer's keys, and checks signature, times, audience and shape.
//
// Package identity interprets the claims for a certificate. Packages identity, ca and app
// may import this one; of this module it imports only internal/refusal and internal/keypath.
package oidc

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Issuer is one entry of the issuer file: a trusted issuer or wildcard, and the accepted audiences
// of its ID tokens. Exactly one of URL and Pattern is set.
type Issuer struct {
	// Key is the entry's key in the issuer file and its identity here: Token.Entry and
	// IssuerStatus.Entry repeat it. It is unique.
	Key string
	// URL is the issuer URL of a static entry, byte for byte as `iss` has it. It must be https.
	// http is accepted for loopback hosts under Config.AllowLoopback, and for Config.InsecureHosts.
	URL string
	// Pattern is the wildcard of a wildcard entry; see ParsePattern.
	Pattern string
	// Audiences are the accepted values of `aud`; at least one. A token must have one of them.
	Audiences []string
	// Profiles distinguish tokens for further audiences from tokens for Audiences. No audience may
	// be in two places.
	Profiles []Profile
	// SigningAlgorithms narrows the accepted algorithms, as in "ES256"; empty accepts all that the
	// issuer's discovery document lists and this package supports.
	SigningAlgorithms []string
	// CACert is the PEM of CA certificates to which the issuer's TLS certificate may chain, in
	// addition to the system's; if empty, only the system's apply.
	CACert []byte
	// Kubernetes states that the issuer is a Kubernetes cluster. If this process runs in that
	// cluster, it connects from inside: see Config.KubernetesAPIServer.
	Kubernetes bool
	// SPIFFE states that the subjects are SPIFFE IDs. The key set may then be a SPIFFE bundle, in
	// which keys for tokens have the `use` "jwt-svid".
	SPIFFE bool
	// AllowPrivateNetwork accepts private addresses for the issuer's hosts. Loopback addresses, and
	// link-local ones with the metadata services of clouds, stay refused.
	AllowPrivateNetwork bool
	// JWKSHosts are further hosts for the jwks_uri of a wildcard issuer, with the port if it is not
	// the scheme's default. The issuer's own host is always permitted. The jwks_uri of a static
	// issuer may be anywhere, unless JWKSHosts is set.
	JWKSHosts []string
}

// Profile is a purpose of an issuer's tokens, which their audience selects.
type Profile struct {
	// Name is the value of Token.Profile; unique in its entry and never "".
	Name string
	// Audiences are the values of `aud` that select this profile; at least one.
	Audiences []string
}

// Config is the setting of a Verifier.
type Config struct {
	// Issuers are the trusted issuers; at least one.
	Issuers []Issuer
	// AllowLoopback accepts loopback addresses, and http on them. For development only.
	AllowLoopback bool
	// InsecureHosts are host names or IP addresses for which http is accepted, in issuer URLs and
	// in the jwks_uri of http issuers. Private and loopback addresses are accepted for them too.
	// Metadata services stay refused. For development only.
	InsecureHosts []string
	// KubernetesAPIServer is a URL of the API server of the cluster that this process runs in, in
	// addition to the built-in ones: see isAPIServer. Its path is ignored.
	KubernetesAPIServer string
	// KubernetesCAFile and KubernetesTokenFile are the cluster's CA certificates (PEM) and the
	// pod's service account token, for connections to the cluster's own issuer. Each fetch reads
	// both again, because they rotate. The defaults are /var/run/fulcio/ca.crt and
	// /var/run/secrets/kubernetes.io/serviceaccount/token.
	KubernetesCAFile, KubernetesTokenFile string
	// Proxy is the URL of an HTTP proxy for connections to issuers; "" connects directly, whatever
	// the environment states. Entries with AllowPrivateNetwork, the cluster's own issuer, and
	// loopback addresses never use it. The proxy resolves the names, and must refuse addresses of
	// the inner network.
	Proxy string
	// KeyRefresh is the age at which an issuer's keys are fetched again, and thus the time for
	// which a withdrawn key may still be accepted; default 15 minutes. An issuer with a smaller
	// max-age on its key set is fetched from sooner, at most once a minute.
	KeyRefresh time.Duration
	// KeyLifetime is the age after which keys that could not be refreshed are no longer trusted;
	// default 24 hours.
	KeyLifetime time.Duration
	// MaxWaiting limits the calls of Verify that wait for issuers of wildcard entries at the same
	// time; default 256. One client address gets half of them.
	MaxWaiting int
	// ProxiesKnown states that the addresses of clients are not those of proxies before them. If it
	// is false, and all requests come from one address, then no client is blamed for it.
	ProxiesKnown bool
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Logger receives the operator's messages about issuers; default none.
	Logger *slog.Logger
	// ObserveFetch, if set, is called after each fetch of a discovery document or key set, from
	// several goroutines. It is meant for metrics.
	ObserveFetch func(Fetch)
}

// Token is an ID token with checked signature, times, audience and subject. It is not changed after
// Verify has returned it.
type Token struct {
	// Entry is Issuer.Key of the entry that the token's issuer matched.
	Entry string
	// Profile is Profile.Name of the profile that has the token's audience; "" for
	// Issuer.Audiences.
	Profile string
	// IssuerURL is the claim `iss`.
	IssuerURL string
	// Subject is the claim `sub`; never empty.
	Subject string
	// Audience is the claim `aud`, which holds at least one accepted audience.
	Audience []string
	// Expiry is the claim `exp`, in whole seconds.
	Expiry time.Time
	// Claims are all claims, including those above.
	Claims Claims
}

// Verifier verifies ID tokens. It is safe for concurrent use.
type Verifier struct {
	static    map[string]*source // by issuer URL
	wildcards []*entry           // more literal labels and segments first
	entries   []*entry           // in the order of Config.Issuers
	now       func() time.Time
	callers   *callers
}

// Verify checks rawIDToken, a compact JWS (RFC 7515, section 7.1) that only white space may
// surround, and returns its content. Its refusals are *refusal.Error. client is the address of the
// requester; the lookups of a wildcard entry's issuers are shared between these addresses. The zero
// address is an unknown client.
//
// Verify fetches nothing for a token that no issuer entry matches, or with wrong times or audience.
// For a discovered static issuer it fetches only if the present keys do not verify the token, at
// most twice a minute.
func (v *Verifier) Verify(ctx context.Context, rawIDToken string, client netip.Addr) (*Token, error) {
	return v.trace(ctx, rawIDToken, client, nil)
}

// Trace is Verify, and calls observe, which may be nil, with each step in order. If a step fails,
// it is the last one.
func (v *Verifier) Trace(ctx context.Context, rawIDToken string, observe func(Step)) (*Token, error) {
	return v.trace(ctx, rawIDToken, netip.Addr{}, observe)
}

func (v *Verifier) trace(ctx context.Context, rawIDToken string, client netip.Addr, observe func(Step)) (*Token, error) {
	steps := tracer(observe)
	// One reading of the clock applies to the whole token.
	now := v.now()
	v.callers.note(client, now)

	token, err := parseToken(rawIDToken)
	steps.form(token, err)
	if err != nil {
		return nil, err
	}
	issuerURL, e, err := v.match(token)
	steps.issuer(issuerURL, e, err)
	if err != nil {
		return nil, err
	}
	// These checks are cheap and the signature is not, so they come first. A token with several
	// faults gets the answer to one of them.
	verified, err := token.check(e, now, steps)
	if err != nil {
		return nil, err
	}
	src, err := v.source(issuerURL, client, e)
	if err != nil {
		return nil, err
	}
	if err := src.verify(ctx, request{token, client, now}, steps); err != nil {
		return nil, err
	}
	return verified, nil
}

// source returns the source of keys for issuerURL, which e matches, for a request of client.
func (v *Verifier) source(issuerURL string, client netip.Addr, e *entry) (*source, error) {
	if e.pool == nil {
		return v.static[issuerURL], nil
	}
	return e.pool.source(issuerURL, client, v.now())
}

// match returns the token's issuer URL and the matching entry.
func (v *Verifier) match(token *idToken) (issuerURL string, e *entry, err error) {
	if issuerURL, err = token.issuerURL(); err != nil {
		return "", nil, err
	}
	e, err = v.entryOf(issuerURL)
	return issuerURL, e, err
}

// entryOf returns the static entry with exactly this URL, or otherwise the most specific wildcard
// that matches it.
func (v *Verifier) entryOf(issuerURL string) (*entry, error) {
	if src, ok := v.static[issuerURL]; ok {
		return src.entry, nil
	}
	if target, ok := parseIssuerURL(issuerURL); ok && len(issuerURL) <= maxIssuerURL {
		for _, e := range v.wildcards {
			if e.pattern.matches(target) {
				return e, nil
			}
		}
	}
	twin, slashed := strings.CutSuffix(issuerURL, "/")
	if !slashed {
		twin = issuerURL + "/"
	}
	if _, ok := v.static[twin]; ok {
		return nil, refusal.New(refusal.IssuerNotConfigured,
			"the token's issuer is %s, which is not configured here; %s is, and a slash at the end makes a difference",
			quote(issuerURL), quote(twin))
	}
	return nil, refusal.New(refusal.IssuerNotConfigured,
		"the token's issuer is %s, which is not among the issuers configured here", quote(issuerURL))
}
