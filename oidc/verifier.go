// SPDX-License-Identifier: Apache-2.0

// Package oidc turns a raw ID token into a verified Token. It finds the configured issuer entry,
// discovers the issuer's keys, and checks signature, times, audience and shape.
//
// Package identity interprets the claims for a certificate. Packages identity, ca and app
// may import this one; of this module it imports only internal/refusal and internal/keypath.
package oidc

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Issuer is one entry of the issuer file: a trusted issuer or wildcard, and the accepted audiences
// of its ID tokens. Exactly one of URL and Pattern is set. The fields with tags are keys of the file.
type Issuer struct {
	// Key is the entry's key in the issuer file; unique.
	Key string
	// URL is the issuer URL of a static entry, byte for byte as `iss` has it. It is https, except on
	// loopback addresses under Config.AllowLoopback and for Config.InsecureHosts.
	URL string
	// Pattern is the wildcard of a wildcard entry; see ParsePattern.
	Pattern string
	// Audiences are the accepted values of `aud`; at least one. A token must have one of them.
	Audiences []string
	// Profiles distinguish tokens for further audiences from tokens for Audiences. No audience may
	// be in two places.
	Profiles []Profile
	// Kubernetes states that the issuer is a Kubernetes cluster. If this process runs in that
	// cluster, it connects from inside: see Config.Kubernetes.
	Kubernetes bool
	// SPIFFE states that the subjects are SPIFFE IDs. The key set may then be a SPIFFE bundle, in
	// which keys for tokens have the `use` "jwt-svid".
	SPIFFE bool

	// SigningAlgorithms are the JOSE algorithms accepted from this issuer, such as RS256. Without the
	// list, and at most, those that its discovery document lists.
	SigningAlgorithms []string `key:"signing-algorithms"`
	// CACert is `ca-cert`: CA certificates, as PEM text, to which the issuer's server may chain, in
	// addition to the system's.
	CACert []byte `key:"ca-cert"`
	// AllowPrivateNetwork is `allow-private-network` (ours): discovery and keys may be read from
	// private addresses, and never through oidc.proxy. Link-local addresses and metadata services
	// stay refused. False by default, because an issuer name that resolves to a private address can
	// make a server connect to its own network.
	AllowPrivateNetwork bool `key:"allow-private-network"`
	// JWKSHosts is `jwks-hosts` (ours): the hosts besides their own on which a wildcard entry's
	// issuers may keep their keys, with the port if it is not the scheme's default. None by default.
	// A static entry's issuer may keep them on any host.
	JWKSHosts []string `key:"jwks-hosts"`
}

// Profile is a purpose of an issuer's tokens, which their audience selects.
type Profile struct {
	// Name is the value of Token.Profile; unique in its entry and never "".
	Name string
	// Audiences are the values of `aud` that select this profile; at least one.
	Audiences []string
}

// Config is the setting of a Verifier. The fields with tags are keys of `oidc`: the connections to
// providers.
type Config struct {
	// Issuers are the trusted issuers; at least one.
	Issuers []Issuer
	// AllowLoopback permits http issuers on loopback addresses. It is for development: any program
	// that can listen on the machine can then be an issuer.
	AllowLoopback bool `key:"allow_loopback"`
	// InsecureHosts are names or IP addresses of hosts, without a port, for which http issuers, and
	// private and loopback addresses, are permitted. It is for development in a private network: any
	// party on the way to such a host can be an issuer. Metadata services of clouds stay refused.
	InsecureHosts []string `key:"insecure_hosts"`
	// Proxy is the URL of an HTTP proxy for connections to issuers, except entries with
	// AllowPrivateNetwork, the cluster's own issuer, and loopback addresses; "" for none, whatever
	// the environment states. The proxy must refuse addresses of the inner network.
	Proxy string
	// KeyRefresh is the age at which an issuer's keys are read again, and thus the time for which a
	// withdrawn key may still be accepted.
	KeyRefresh time.Duration `key:"key_refresh" default:"15m" min:"10s" max:"1h"`
	// KeyLifetime is the age after which the keys of an unreachable issuer are no longer trusted, and
	// its tokens are refused. It is at least key_refresh.
	KeyLifetime time.Duration `key:"key_lifetime" default:"24h" min:"10s" max:"168h"`
	Kubernetes  Kubernetes    `key:"kubernetes"`
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
	// ObserveFetch, if set, is called after each fetch of a document, from several goroutines.
	ObserveFetch func(Fetch)
}

// Kubernetes is `oidc.kubernetes`: the connection to the issuer of the cluster that this server runs
// in. Neither file is read unless such an issuer is configured; both are read again for each use.
type Kubernetes struct {
	// APIServer is the URL of the cluster's API server, for static issuers of type kubernetes that it
	// serves under other names than the built-in ones. Built-in are https://kubernetes.default.svc
	// and https://kubernetes.default.svc.cluster.local, and loopback and private IP addresses if
	// https://kubernetes.default.svc is configured. Issuers of other clusters get no token.
	APIServer string `key:"api_server"`
	// CAFile holds the PEM certificates to which the API server's certificate may chain, besides
	// only the entry's own ca-cert. The default is Fulcio's.
	CAFile string `key:"ca_file" kind:"path" default:"/var/run/fulcio/ca.crt"`
	// TokenFile holds the bearer token that is sent to the API server's origin, and to no other
	// server.
	TokenFile string `key:"token_file" kind:"path" default:"/var/run/secrets/kubernetes.io/serviceaccount/token"`
}

// Token is an ID token with checked signature, times, audience and subject. It is not changed after
// Verify has returned it.
type Token struct {
	// Entry is Issuer.Key of the entry that the token's issuer matched.
	Entry string
	// Profile is the profile that has the token's audience; "" for Issuer.Audiences.
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
	*shared
	static    map[string]*entry // by issuer URL
	wildcards []*entry          // more literal labels and segments first
	entries   []*entry          // in the order of Config.Issuers
}

// Verify checks rawIDToken, a compact JWS (RFC 7515, section 7.1) that only white space may
// surround, and returns its content. Its refusals are *refusal.Error. client is the address of the
// requester; the lookups of a wildcard entry's issuers are shared between these addresses. The zero
// address is an unknown client.
//
// For a discovered static issuer, Verify fetches only if the present keys do not verify the token, at
// most twice a minute.
func (v *Verifier) Verify(ctx context.Context, rawIDToken string, client netip.Addr) (*Token, error) {
	x, err := v.verify(ctx, rawIDToken, client)
	if err != nil {
		return nil, err
	}
	return &x.result, nil
}

func (v *Verifier) verify(ctx context.Context, rawIDToken string, client netip.Addr) (x *examination, err error) {
	x = &examination{step: "form", now: v.cfg.Now()} // one reading of the clock applies to the whole token
	v.clients.note(client, x.now)
	if x.token, err = parseToken(rawIDToken); err != nil {
		return x, err
	}
	// These checks are cheap and need no network, so they come before the signature.
	if err := v.check(x); err != nil {
		return x, err
	}
	x.step = "keys"
	i, err := x.entry.issuerFor(x.token, x.result.IssuerURL, client, x.now)
	if err != nil {
		return x, err
	}
	return x, i.verify(ctx, x, client)
}

// issuerFor returns the issuer at issuerURL, which e matches, for a token and its client.
func (e *entry) issuerFor(token *idToken, issuerURL string, client netip.Addr, now time.Time) (*issuer, error) {
	if narrow := e.SigningAlgorithms; len(narrow) > 0 && !slices.Contains(narrow, token.alg) {
		return nil, algorithmRefused(token.alg, narrow, issuerURL)
	}
	if e.pool != nil {
		return e.pool.issuer(issuerURL, client, now)
	}
	return e.issuer, nil
}

// entryOf returns the static entry with exactly this URL, or otherwise the most specific wildcard
// that matches it.
func (v *Verifier) entryOf(issuerURL string) (*entry, error) {
	if e, ok := v.static[issuerURL]; ok {
		return e, nil
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
	hint := ""
	if _, ok := v.static[twin]; ok {
		hint = fmt.Sprintf("; %s is, and a slash at the end makes a difference", quote(twin))
	}
	return nil, refusal.New(refusal.IssuerNotConfigured, "the token's issuer is %s, which is not configured here%s", quote(issuerURL), hint)
}

// Run discovers all static issuers at once and keeps their keys fresh until ctx ends; then it
// returns nil. It must run while Verify is in use. It retries a failed issuer after 1 to 30
// seconds, and fetches from a good one before its keys have the age of Config.KeyRefresh.
func (v *Verifier) Run(ctx context.Context) error {
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for summary := v.cfg.Now().Add(summaryInterval); ; {
		now := v.cfg.Now()
		for _, e := range v.static {
			_, _ = e.issuer.fetch(nil, netip.Addr{}, now) // an error states that it is not due
		}
		if !now.Before(summary) {
			v.summarize()
			summary = now.Add(summaryInterval)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Probe fetches document and keys of every static issuer once, all at the same time. It returns
// when the last fetch is done or ctx ends; Status then shows the results. Probe is for checks of
// settings, and does not replace Run.
func (v *Verifier) Probe(ctx context.Context) {
	var all []<-chan struct{}
	for _, e := range v.static {
		if done, err := e.issuer.fetch(nil, netip.Addr{}, v.cfg.Now()); err == nil {
			all = append(all, done)
		}
	}
	for _, done := range all {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

// Inherit lets v share with old the issuers for which both have the same connection settings, with
// their keys, failures and limits. After a reload, v therefore fetches only what changed, and no
// request waits. The caller calls Inherit once, before v is used; old may be in use. Both have the
// same Config except for the Issuers.
func (v *Verifier) Inherit(old *Verifier) {
	v.clients, v.waiting = old.clients, old.waiting
	for _, e := range v.entries {
		for _, o := range old.entries {
			if e.fetchesAs(o) {
				e.issuer, e.pool, e.waiting = o.issuer, o.pool, o.waiting
			}
		}
	}
}

// fetchesAs reports whether e's settings lead to the same fetches and limits as o's settings.
func (e *entry) fetchesAs(o *entry) bool {
	return e.Key == o.Key && e.URL == o.URL && e.Pattern == o.Pattern && e.inCluster == o.inCluster && e.SPIFFE == o.SPIFFE &&
		e.AllowPrivateNetwork == o.AllowPrivateNetwork && bytes.Equal(e.CACert, o.CACert) &&
		slices.Equal(e.SigningAlgorithms, o.SigningAlgorithms) && slices.Equal(e.JWKSHosts, o.JWKSHosts)
}
