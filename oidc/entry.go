// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/internal/httputil"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/internal/share"
)

// inClusterURL is an issuer; its presence shows that this process runs in a cluster.
const inClusterURL = "https://kubernetes.default.svc"

const (
	defaultKubernetesCAFile    = "/var/run/fulcio/ca.crt"
	defaultKubernetesTokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	defaultKeyRefresh          = 15 * time.Minute
	defaultKeyLifetime         = 24 * time.Hour
	defaultWaiting             = 256
)

// entry is a validated Issuer.
type entry struct {
	Issuer
	issuer     *issuer           // of a static entry
	pattern    Pattern           // of a wildcard entry
	pool       *pool             // of a wildcard entry
	byAudience map[string]string // the profile's name; "" for Issuer.Audiences
	inCluster  bool
	client     *http.Client
	waiting    *share.Places // requests that wait for a fetch
}

// transportFunc opens connections.
type transportFunc func(reach) http.RoundTripper

// New checks every setting and returns a Verifier. It uses no network. Run performs discovery, as
// does Verify if Run has not done so yet. New joins its errors, which are keypath errors relative
// to the root of the issuer file.
func New(cfg Config) (*Verifier, error) { return newVerifier(cfg, newTransport) }

func newVerifier(cfg Config, transport transportFunc) (*Verifier, error) {
	cfg.setDefaults()
	v := &Verifier{
		shared: &shared{
			refresh: cfg.KeyRefresh, lifetime: cfg.KeyLifetime, allowLoopback: cfg.AllowLoopback, insecureHosts: cfg.InsecureHosts,
			now: cfg.Now, logger: cfg.Logger, observe: cfg.ObserveFetch, clients: &clients{}, proxiesKnown: cfg.ProxiesKnown,
			waiting: share.New(cfg.MaxWaiting, 0),
		},
		static: make(map[string]*entry),
	}
	var errs []error
	if len(cfg.Issuers) == 0 {
		errs = append(errs, keypath.Errorf([]string{"oidc-issuers"}, "no issuer is configured, so that every request would be refused"))
	}
	proxy, err := parseProxy(cfg.Proxy)
	errs = append(errs, err)
	inCluster := slices.ContainsFunc(cfg.Issuers, func(i Issuer) bool { return i.URL == inClusterURL })
	keys := make(map[string]bool)
	for _, settings := range cfg.Issuers {
		e := &entry{Issuer: settings, inCluster: isAPIServer(settings, cfg.KubernetesAPIServer, inCluster), waiting: share.New(maxWaiting, 0)}
		errs = append(errs, e.validate(&cfg)...)
		if keys[e.Key] {
			errs = append(errs, keypath.Errorf(e.path(), "there is more than one entry with this key"))
		}
		keys[e.Key] = true
		client, err := e.newClient(&cfg, proxy, transport)
		errs = append(errs, err)
		e.client = client
		v.entries = append(v.entries, e)
		switch {
		case e.URL == "":
			e.pool = newPool(v.shared, e)
			v.wildcards = append(v.wildcards, e)
		case v.static[e.URL] != nil:
			errs = append(errs, keypath.Errorf(e.path("issuer-url"), "%s has more than one entry", e.URL))
		default:
			e.issuer = &issuer{shared: v.shared, url: e.URL, entry: e}
			v.static[e.URL] = e
		}
	}
	errs = append(errs, checkOverlaps(v.wildcards)...)
	slices.SortStableFunc(v.wildcards, func(a, b *entry) int { return b.pattern.Specificity() - a.pattern.Specificity() })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return v, nil
}

func (cfg *Config) setDefaults() {
	if cfg.KubernetesCAFile == "" {
		cfg.KubernetesCAFile = defaultKubernetesCAFile
	}
	if cfg.KubernetesTokenFile == "" {
		cfg.KubernetesTokenFile = defaultKubernetesTokenFile
	}
	if cfg.KeyRefresh <= 0 {
		cfg.KeyRefresh = defaultKeyRefresh
	}
	if cfg.KeyLifetime <= 0 {
		cfg.KeyLifetime = defaultKeyLifetime
	}
	if cfg.MaxWaiting <= 0 {
		cfg.MaxWaiting = defaultWaiting
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
}

// path returns the path of the entry, or of a key in it, in the issuer file.
func (e *entry) path(keys ...string) []string {
	section := "oidc-issuers"
	if e.URL == "" {
		section = "meta-issuers"
	}
	return append([]string{section, e.Key}, keys...)
}

// validate checks every setting of the entry except CACert, and parses its pattern.
func (e *entry) validate(cfg *Config) (errs []error) {
	switch {
	case e.URL != "" && e.Pattern != "":
		errs = append(errs, keypath.Errorf(e.path(), "the entry has both an issuer URL and a wildcard; wanted is one of them"))
	case e.URL != "":
		if err := cfg.checkURL(e.URL); err != nil {
			errs = append(errs, keypath.Errorf(e.path("issuer-url"), "%w", err))
		}
	default:
		pattern, err := ParsePattern(e.Pattern)
		if err == nil && pattern.scheme == "http" {
			err = cfg.checkURL(strings.ReplaceAll(e.Pattern, "*", "x"))
		}
		if err != nil {
			errs = append(errs, keypath.Errorf(e.path(), "%w", err))
		}
		e.pattern = pattern
	}
	if len(e.Audiences) == 0 || slices.Contains(e.Audiences, "") {
		errs = append(errs, keypath.Errorf(e.path("client-id"), "the entry has no audience, or an empty one; tokens for any audience would be accepted"))
	}
	errs = append(errs, e.validateProfiles()...)
	for i, alg := range e.SigningAlgorithms {
		if !supportedAlgorithm(alg) {
			errs = append(errs, keypath.Errorf(e.path("signing-algorithms", strconv.Itoa(i)), "%q is no signing algorithm that can be accepted; these are %s", alg, supportedAlgorithms))
		}
	}
	for i, host := range e.JWKSHosts {
		u, err := url.Parse("https://" + host)
		if err != nil || host == "" || u.Host != host || strings.Contains(host, "*") {
			errs = append(errs, keypath.Errorf(e.path("jwks-hosts", strconv.Itoa(i)), "%q is not a host, or a host and a port", host))
		}
	}
	return errs
}

// checkURL checks an issuer URL (OpenID Connect Discovery 1.0, section 3: https, no query, no
// fragment).
func (cfg *Config) checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("the issuer URL cannot be parsed; wanted is one like https://issuer.example/path")
	case u.Hostname() == "" || u.Opaque != "":
		return errors.New("the issuer URL has no host; wanted is one like https://issuer.example/path")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		return errors.New("the issuer URL has user-info, a query or a fragment; an issuer has none of them")
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return errors.New("the issuer URL is not https")
	case isListed(cfg.InsecureHosts, u.Hostname()):
		return nil
	case !httputil.IsLoopback(u.Hostname()):
		return errors.New("the issuer URL is http; https is expected (http is accepted for the hosts in oidc.insecure_hosts, for development)")
	case !cfg.AllowLoopback:
		return errors.New("the issuer URL is http; https is expected (http on a loopback address is accepted where oidc.allow_loopback is set, for development)")
	default:
		return nil
	}
}

// isListed reports whether host is one of hosts, without regard to case.
func isListed(hosts []string, host string) bool {
	return slices.ContainsFunc(hosts, func(listed string) bool { return strings.EqualFold(listed, host) })
}

// checkOverlaps refuses two wildcards if only their order would decide between them.
func checkOverlaps(wildcards []*entry) (errs []error) {
	for i, e := range wildcards {
		for _, earlier := range wildcards[:i] {
			if e.pattern.text == "" || earlier.pattern.text == "" {
				continue // did not parse
			}
			if e.pattern.Specificity() == earlier.pattern.Specificity() && e.pattern.Overlaps(earlier.pattern) {
				errs = append(errs, keypath.Errorf(e.path(),
					"some issuer URL matches both this wildcard and %q, and neither has more labels and segments without a *", earlier.Pattern))
			}
		}
	}
	return errs
}

// newClient returns the only HTTP client that connects to the entry's issuers.
func (e *entry) newClient(cfg *Config, proxy *url.URL, transport transportFunc) (*http.Client, error) {
	var roots *x509.CertPool
	if len(e.CACert) > 0 {
		roots = systemRoots()
		if err := pem.CertPool(roots, e.CACert); err != nil {
			return nil, keypath.Errorf(e.path("ca-cert"), "there is no certificate in it that can be used; PEM is expected: %w", err)
		}
	}
	policy := newAddressPolicy()
	policy.loopback = cfg.AllowLoopback
	policy.private = e.AllowPrivateNetwork || e.inCluster
	g := &guard{}
	switch {
	case e.inCluster:
		g.https = &clusterTransport{
			caFile: cfg.KubernetesCAFile, tokenFile: cfg.KubernetesTokenFile, issuerURL: e.URL, extraCA: e.CACert,
			open: func(roots *x509.CertPool) http.RoundTripper { return transport(reach{policy: policy, roots: roots}) },
		}
	case proxy != nil && !e.AllowPrivateNetwork:
		g.https = newProxied(proxy, reach{policy: policy, roots: roots}, transport)
	default:
		g.https = transport(reach{policy: policy, roots: roots})
	}
	if len(cfg.InsecureHosts) > 0 && !e.inCluster { // the cluster's own issuer needs its token
		g.insecureHosts = cfg.InsecureHosts
		inner := newAddressPolicy()
		inner.private, inner.loopback, inner.test = true, true, true
		g.insecure = transport(reach{policy: inner, roots: roots})
	}
	if cfg.AllowLoopback {
		onlyLoopback := newAddressPolicy()
		onlyLoopback.public, onlyLoopback.loopback = false, true
		g.http = transport(reach{policy: onlyLoopback})
	}
	return &http.Client{Transport: g, CheckRedirect: sameOriginRedirect}, nil
}

// systemRoots returns a copy of the system's CA certificates, or an empty pool if the system has
// none.
func systemRoots() *x509.CertPool {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return x509.NewCertPool()
	}
	return roots
}
