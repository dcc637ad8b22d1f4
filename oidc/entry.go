// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"cmp"
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
	defaultKeyRefresh  = 15 * time.Minute
	defaultKeyLifetime = 24 * time.Hour
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
		shared: &shared{cfg: &cfg, clients: &clients{}, waiting: share.New(cfg.MaxWaiting, 0)},
		static: make(map[string]*entry),
	}
	var errs []error
	if len(cfg.Issuers) == 0 {
		errs = append(errs, keypath.Errorf([]string{"oidc-issuers"}, "no issuer is configured, so that every request would be refused"))
	}
	proxy, err := parseProxy(cfg.Proxy)
	errs = append(errs, err)
	inCluster := slices.ContainsFunc(cfg.Issuers, func(i Issuer) bool { return i.URL == inClusterURL })
	for _, settings := range cfg.Issuers {
		e := &entry{Issuer: settings, inCluster: isAPIServer(settings, cfg.Kubernetes.APIServer, inCluster), waiting: share.New(maxWaiting, 0)}
		errs = append(errs, e.validate(&cfg)...)
		if slices.ContainsFunc(v.entries, func(o *entry) bool { return o.Key == e.Key }) {
			errs = append(errs, keypath.Errorf(e.path(), "there is more than one entry with this key"))
		}
		e.client, err = e.newClient(&cfg, proxy, transport)
		errs = append(errs, err)
		v.entries = append(v.entries, e)
		switch {
		case e.URL == "":
			errs = append(errs, e.checkOverlaps(v.wildcards)...)
			e.pool = newPool(v.shared, e)
			v.wildcards = append(v.wildcards, e)
		case v.static[e.URL] != nil:
			errs = append(errs, keypath.Errorf(e.path("issuer-url"), "%s has more than one entry", e.URL))
		default:
			e.issuer = &issuer{shared: v.shared, url: e.URL, entry: e}
			v.static[e.URL] = e
		}
	}
	slices.SortStableFunc(v.wildcards, func(a, b *entry) int { return b.pattern.Specificity() - a.pattern.Specificity() })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return v, nil
}

func (cfg *Config) setDefaults() {
	cfg.Kubernetes.CAFile = cmp.Or(cfg.Kubernetes.CAFile, "/var/run/fulcio/ca.crt")
	cfg.Kubernetes.TokenFile = cmp.Or(cfg.Kubernetes.TokenFile, "/var/run/secrets/kubernetes.io/serviceaccount/token")
	cfg.KeyRefresh = cmp.Or(cfg.KeyRefresh, defaultKeyRefresh)
	cfg.KeyLifetime = cmp.Or(cfg.KeyLifetime, defaultKeyLifetime)
	cfg.MaxWaiting = cmp.Or(cfg.MaxWaiting, 256)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Now == nil {
		cfg.Now = time.Now
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
		errs = append(errs, keypath.Errorf(e.path(), "the entry has both an issuer URL and a wildcard; one of them is expected"))
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

// validateProfiles checks the profiles, and fills byAudience.
func (e *entry) validateProfiles() (errs []error) {
	e.byAudience = make(map[string]string)
	for _, audience := range e.Audiences {
		e.byAudience[audience] = ""
	}
	for i, p := range e.Profiles {
		wrong := func(key, format string, args ...any) {
			errs = append(errs, keypath.Errorf(e.path("profiles", strconv.Itoa(i), key), format, args...))
		}
		if p.Name == "" {
			wrong("name", "the profile has no name")
		}
		if len(p.Audiences) == 0 || slices.Contains(p.Audiences, "") {
			wrong("client-id", "the profile has no audience, or an empty one, so that no token selects it")
		}
		for _, audience := range p.Audiences {
			if other, ok := e.byAudience[audience]; ok && other != p.Name {
				wrong("client-id", "the audience %s already selects another profile of the issuer, or the entry itself", quote(audience))
				continue
			}
			e.byAudience[audience] = p.Name
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
		return errors.New("the issuer URL cannot be parsed; one like https://issuer.example/path is expected")
	case u.Hostname() == "" || u.Opaque != "":
		return errors.New("the issuer URL has no host; one like https://issuer.example/path is expected")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		return errors.New("the issuer URL has user-info, a query or a fragment; an issuer has none of them")
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return errors.New("the issuer URL is not https")
	case isListed(cfg.InsecureHosts, u.Hostname()), cfg.AllowLoopback && httputil.IsLoopback(u.Hostname()):
		return nil
	default:
		return errors.New("the issuer URL is http; https is expected (for development, http is accepted for the hosts in " +
			"oidc.insecure_hosts, and with oidc.allow_loopback on loopback addresses)")
	}
}

// isListed reports whether host is one of hosts, without regard to case.
func isListed(hosts []string, host string) bool {
	return slices.ContainsFunc(hosts, func(listed string) bool { return strings.EqualFold(listed, host) })
}

// checkOverlaps refuses a wildcard if only the order would decide between it and an earlier one.
func (e *entry) checkOverlaps(wildcards []*entry) (errs []error) {
	for _, earlier := range wildcards {
		if e.pattern.Specificity() == earlier.pattern.Specificity() && e.pattern.Overlaps(earlier.pattern) &&
			e.pattern.text != "" && earlier.pattern.text != "" { // both have been parsed
			errs = append(errs, keypath.Errorf(e.path(),
				"some issuer URL matches both this wildcard and %q, and neither has more labels and segments without a *", earlier.Pattern))
		}
	}
	return errs
}

// newClient returns the only HTTP client that connects to the entry's issuers.
func (e *entry) newClient(cfg *Config, proxy *url.URL, transport transportFunc) (*http.Client, error) {
	var roots *x509.CertPool
	if len(e.CACert) > 0 {
		var err error
		if roots, err = x509.SystemCertPool(); err != nil {
			roots = x509.NewCertPool() // the system has none
		}
		if err := pem.CertPool(roots, e.CACert); err != nil {
			return nil, keypath.Errorf(e.path("ca-cert"), "there is no certificate in it that can be used; PEM is expected: %w", err)
		}
	}
	r := reach{allowed: publicAddresses, roots: roots}
	if cfg.AllowLoopback {
		r.allowed |= loopbackAddresses
	}
	if e.AllowPrivateNetwork || e.inCluster {
		r.allowed |= privateAddresses
	}
	g := &guard{}
	switch {
	case e.inCluster:
		u, err := url.Parse(e.URL)
		if err != nil {
			return nil, nil // isAPIServer has parsed it
		}
		g.https = &clusterTransport{
			caFile: cfg.Kubernetes.CAFile, tokenFile: cfg.Kubernetes.TokenFile, origin: origin(u), extraCA: e.CACert,
			open: func(roots *x509.CertPool) http.RoundTripper {
				return transport(reach{allowed: r.allowed, roots: roots})
			},
		}
	case proxy != nil && !e.AllowPrivateNetwork:
		g.https = newProxied(proxy, r, transport)
	default:
		g.https = transport(r)
	}
	if len(cfg.InsecureHosts) > 0 && !e.inCluster { // the cluster's own issuer needs its token
		g.insecureHosts = cfg.InsecureHosts
		g.insecure = transport(reach{allowed: publicAddresses | privateAddresses | loopbackAddresses | testAddresses, roots: roots})
	}
	if cfg.AllowLoopback {
		g.http = transport(reach{allowed: loopbackAddresses})
	}
	return &http.Client{Transport: g, CheckRedirect: sameOriginRedirect}, nil
}
