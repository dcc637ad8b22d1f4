// SPDX-License-Identifier: Apache-2.0

// Package oidc turns a raw ID token into a verified Token: it finds the configured issuer
// entry, discovers the issuer's keys, and checks signature, times, audience and shape.
//
// What the claims mean for a certificate is package identity's business. Packages identity,
// ca and internal/app may import this one; it imports nothing of ours but internal/refusal
// and internal/keypath.
package oidc

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Issuer is one entry of the issuer file: whose ID tokens are trusted, and for which
// audience. Exactly one of URL and Pattern is set.
type Issuer struct {
	// Key is the entry's key in the issuer file and its identity here: Token.Entry and
	// IssuerStatus.Entry repeat it. It is unique.
	Key string
	// URL is the issuer URL of a static entry, byte for byte as `iss` has it. It is https;
	// http is accepted for loopback hosts under Config.AllowLoopback, and for Config.InsecureHosts.
	URL string
	// Pattern is the wildcard of a wildcard entry; see ParsePattern.
	Pattern string
	// Audiences are the accepted values of `aud`; at least one. A token needs one of them.
	Audiences []string
	// Profiles tell tokens for further audiences apart from those for Audiences. No audience
	// may be in two places.
	Profiles []Profile
	// SigningAlgorithms narrows the accepted algorithms, as in "ES256"; empty accepts all
	// that the issuer's discovery document lists and that this package knows.
	SigningAlgorithms []string
	// CACert is PEM of the CA certificates that the issuer's TLS certificate may chain to,
	// beside the system's; empty for the system's alone.
	CACert []byte
	// Kubernetes tells that the issuer is a Kubernetes cluster. If it is the cluster that this
	// process runs in, it is reached from inside: see Config.KubernetesAPIServer.
	Kubernetes bool
	// SPIFFE reports that the subjects are SPIFFE IDs. The key set may then be a SPIFFE bundle, whose
	// keys for tokens have the `use` "jwt-svid".
	SPIFFE bool
	// AllowPrivateNetwork accepts private addresses for the issuer's hosts. Loopback and
	// link-local ones, where clouds keep their metadata services, stay refused.
	AllowPrivateNetwork bool
	// JWKSHosts are further hosts (with a port where it is not the scheme's own) that the
	// jwks_uri of a wildcard issuer may be on; its own host always is one. A static issuer's
	// may be anywhere, unless this is set.
	JWKSHosts []string
}

// Profile is what tokens of an issuer are for, told by their audience.
type Profile struct {
	// Name is what Token.Profile repeats; unique in its entry and never "".
	Name string
	// Audiences are the values of `aud` that lead here; at least one.
	Audiences []string
}

// Config is the setting of a Verifier.
type Config struct {
	// Issuers are the trusted issuers; at least one.
	Issuers []Issuer
	// AllowLoopback accepts loopback addresses, and http on them. For development only.
	AllowLoopback bool
	// InsecureHosts are host names, or IP addresses, for which http is accepted, in issuer URLs and
	// in the jwks_uri of http issuers, and private and loopback addresses. Metadata services stay
	// refused. For development only.
	InsecureHosts []string
	// KubernetesAPIServer is a URL of the API server of the cluster that this process runs in,
	// beside those that need not be said: see isAPIServer. Its path does not count.
	KubernetesAPIServer string
	// KubernetesCAFile and KubernetesTokenFile are the cluster's CA certificates (PEM) and the
	// pod's service account token, with which the cluster's own issuer is reached. Both are
	// read anew for each fetch, since they rotate. The defaults are /var/run/fulcio/ca.crt and
	// /var/run/secrets/kubernetes.io/serviceaccount/token.
	KubernetesCAFile, KubernetesTokenFile string
	// Proxy is the URL of an HTTP proxy through which issuers are reached; "" reaches them
	// directly, whatever the environment says. Never through it go entries with
	// AllowPrivateNetwork, the cluster's own issuer, and loopback addresses. What a name stands
	// for is then looked up by the proxy, which must refuse addresses of the inner network.
	Proxy string
	// KeyRefresh is the age at which an issuer's keys are fetched anew, and so the time that
	// a withdrawn key may still be accepted; default 15 minutes. An issuer whose key set says
	// max-age for less is asked sooner, each minute at most.
	KeyRefresh time.Duration
	// KeyLifetime is the age at which keys that could not be refreshed are trusted no
	// longer; default 24 hours.
	KeyLifetime time.Duration
	// MaxWaiting is how many calls of Verify wait for issuers of wildcard entries at the same time;
	// default 256. One client address gets half of them.
	MaxWaiting int
	// ProxiesKnown states that the addresses of clients are not those of proxies before them. If it
	// is false, and all requests come from one address, then no client is blamed for it.
	ProxiesKnown bool
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Logger gets what the operator must know of issuers; default none.
	Logger *slog.Logger
	// ObserveFetch, if set, is called after each fetch of a discovery document or key set,
	// from several goroutines. It is meant for metrics.
	ObserveFetch func(Fetch)
}

// Token is an ID token whose signature, times, audience and subject have been checked.
// It is not changed after Verify has returned it.
type Token struct {
	// Entry is Issuer.Key of the entry that the token's issuer matched.
	Entry string
	// Profile is Profile.Name of the profile whose audience the token names; "" for
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
	// Claims are all claims, those above included.
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

// Verify checks rawIDToken, a compact JWS (RFC 7515, section 7.1) with white space around it
// at most, and returns what it says. Its refusals are *refusal.Error. client is the address
// that the request came from, between which the lookups of a wildcard entry's issuers are
// shared; the zero address is a client that is not known.
//
// It fetches nothing for a token that no issuer entry matches, or whose times or audience are
// wrong. For a static issuer that has been discovered it fetches only where the keys at hand do
// not verify the token, and that at most twice a minute.
func (v *Verifier) Verify(ctx context.Context, rawIDToken string, client netip.Addr) (*Token, error) {
	return v.trace(ctx, rawIDToken, client, nil)
}

// Trace is Verify, and tells observe, which may be nil, each step as it is made, in their
// order; the last one is the one that failed, where one did.
func (v *Verifier) Trace(ctx context.Context, rawIDToken string, observe func(Step)) (*Token, error) {
	return v.trace(ctx, rawIDToken, netip.Addr{}, observe)
}

func (v *Verifier) trace(ctx context.Context, rawIDToken string, client netip.Addr, observe func(Step)) (*Token, error) {
	steps := tracer(observe)
	// One reading of the clock judges the whole token.
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
	// These checks are cheap and the signature is not, so they come first; a token with
	// several faults gets the answer to one of them.
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

// source returns where the keys of issuerURL come from, which e matches, for a request of client.
func (v *Verifier) source(issuerURL string, client netip.Addr, e *entry) (*source, error) {
	if e.pool == nil {
		return v.static[issuerURL], nil
	}
	return e.pool.source(issuerURL, client, v.now())
}

// match returns the token's issuer URL and the entry that it leads to.
func (v *Verifier) match(token *idToken) (issuerURL string, e *entry, err error) {
	if issuerURL, err = token.issuerURL(); err != nil {
		return "", nil, err
	}
	e, err = v.entryOf(issuerURL)
	return issuerURL, e, err
}

// entryOf returns the static entry with exactly this URL, or else the most specific wildcard
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
