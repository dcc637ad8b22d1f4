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
	"github.com/mayfly-ca/mayfly/internal/share"
)

// Issuer is one entry of the issuer file: a trusted issuer or wildcard, and the accepted audiences
// of its ID tokens. The fields with tags are keys of the file.
type Issuer struct {
	// Key is the entry's key in the issuer file; unique. It is the issuer URL, byte for byte as `iss`
	// has it, or with Wildcard a pattern: see ParsePattern. It is https, except on loopback addresses
	// under Config.AllowLoopback and for Config.InsecureHosts.
	Key      string
	Wildcard bool
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

	// Disabled is `disabled` (ours): the tokens of the issuer, or of all issuers of the pattern, are
	// refused, nothing is requested from it, and GetConfiguration omits it. The entry still takes
	// precedence over less specific patterns, and its tests run as if it were enabled.
	Disabled bool `key:"disabled"`
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
	// Issuers are the trusted issuers.
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
	// ProxyRoots are the CA certificates to which an https proxy must chain; nil for those of the issuers.
	ProxyRoots *x509.CertPool
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
	specific   int               // pattern.specificity
	pool       *pool             // of a wildcard entry
	byAudience map[string]string // the profile's name; "" for Issuer.Audiences
	inCluster  bool
	client     *http.Client
	waiting    *share.Places // requests that wait for a fetch
}

// entryID is what no two entries have equal.
type entryID struct {
	key      string
	wildcard bool
}

func (e *entry) id() entryID { return entryID{e.Key, e.Wildcard} }

// New checks every setting and returns a Verifier. It uses no network. Run performs discovery, as
// does Verify if Run has not done so yet. New joins its errors, which are keypath errors relative
// to the root of the issuer file.
func New(cfg Config) (*Verifier, error) { return newVerifier(cfg, newTransport) }

func newVerifier(cfg Config, transport transportFunc) (*Verifier, error) {
	cfg.KeyRefresh = cmp.Or(cfg.KeyRefresh, defaultKeyRefresh)
	cfg.KeyLifetime = cmp.Or(cfg.KeyLifetime, defaultKeyLifetime)
	cfg.MaxWaiting = cmp.Or(cfg.MaxWaiting, 256)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	v := &Verifier{
		shared: &shared{cfg: &cfg, waiting: share.New(cfg.MaxWaiting, 0)},
		static: make(map[string]*entry, len(cfg.Issuers)), entries: make([]*entry, 0, len(cfg.Issuers)),
	}
	var errs []error
	proxy, err := parseProxy(cfg.Proxy)
	errs = append(errs, err)
	known, earlier := make(map[entryID]bool, len(cfg.Issuers)), overlapIndex{}
	common, commonProxies := transport.shared(), transportFunc(newTransport).shared()
	inCluster := slices.ContainsFunc(cfg.Issuers, func(i Issuer) bool { return i.Key == inClusterURL })
	for _, settings := range cfg.Issuers {
		e := &entry{Issuer: settings, inCluster: settings.Kubernetes && isAPIServer(settings, cfg.Kubernetes.APIServer, inCluster), waiting: share.New(maxWaiting, 0)}
		if known[e.id()] {
			errs = append(errs, keypath.Errorf(e.path(), "there is more than one entry with this key"))
		}
		known[e.id()] = true
		errs = append(errs, e.validate(&cfg, &earlier)...)
		connect, proxies := transport, transportFunc(newTransport)
		if !e.Wildcard && !e.inCluster { // callers choose the issuers of a pattern, and must not delay others
			connect, proxies = common, commonProxies
		}
		e.client, err = e.newClient(&cfg, proxy, connect, proxies)
		errs = append(errs, err)
		v.entries = append(v.entries, e)
		if e.Wildcard {
			e.pool = newPool(v.shared, e)
			v.wildcards = append(v.wildcards, e)
		} else {
			e.issuer = &issuer{shared: v.shared, url: e.Key, entry: e}
			v.static[e.Key] = e
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	slices.SortStableFunc(v.wildcards, func(a, b *entry) int { return b.specific - a.specific })
	v.patterns = newPatternIndex(v.wildcards)
	return v, nil
}

// path returns the path of the entry, or of a key in it, in the issuer file.
func (e *entry) path(keys ...string) []string {
	section := "oidc-issuers"
	if e.Wildcard {
		section = "meta-issuers"
	}
	return append([]string{section, e.Key}, keys...)
}

// validate checks every setting of the entry except CACert, also against the earlier wildcard entries.
// It sets pattern, specific and byAudience.
func (e *entry) validate(cfg *Config, earlier *overlapIndex) (errs []error) {
	wrong := func(path []string, format string, args ...any) {
		errs = append(errs, keypath.Errorf(path, format, args...))
	}
	var err error
	if e.Wildcard {
		if e.pattern, err = ParsePattern(e.Key); err == nil {
			e.specific = e.pattern.specificity()
			err = cfg.checkURL(strings.ReplaceAll(e.Key, "*", "x"))
		}
		if err != nil {
			wrong(e.path(), "%w", err)
		}
	} else if err = cfg.checkURL(e.Key); err != nil {
		wrong(e.path("issuer-url"), "%w", err)
	}
	if e.pattern != (Pattern{}) {
		for _, o := range earlier.add(e) { // only the order would decide between the two
			wrong(e.path(), "some issuer URL matches both this wildcard and %q, and neither has more labels and segments without a *", o.Key)
		}
	}
	e.byAudience = make(map[string]string)
	for i, p := range append([]Profile{{Audiences: e.Audiences}}, e.Profiles...) {
		path := e.path()
		if i > 0 {
			path = e.path("profiles", strconv.Itoa(i-1))
		}
		if i > 0 && p.Name == "" {
			wrong(append(path, "name"), "the profile has no name")
		}
		path = append(path, "client-id")
		if len(p.Audiences) == 0 || slices.Contains(p.Audiences, "") {
			wrong(path, "there is no audience, or an empty one; the tokens must be for an audience of their own")
		}
		for _, audience := range p.Audiences {
			if other, ok := e.byAudience[audience]; ok && other != p.Name {
				wrong(path, "the audience %s already selects another profile of the issuer, or the entry itself", quote(audience))
				continue
			}
			e.byAudience[audience] = p.Name
		}
	}
	for i, alg := range e.SigningAlgorithms {
		if !supportedAlgorithm(alg) {
			wrong(e.path("signing-algorithms", strconv.Itoa(i)), "%q is no signing algorithm that can be accepted; these are %s", alg, supportedAlgorithms)
		}
	}
	for i, host := range e.JWKSHosts {
		u, err := url.Parse("https://" + host)
		if err != nil || host == "" || u.Host != host || strings.Contains(host, "*") {
			wrong(e.path("jwks-hosts", strconv.Itoa(i)), "%q is not a host, or a host and a port", host)
		}
	}
	return errs
}

// checkURL checks an issuer URL (OpenID Connect Discovery 1.0, section 3: https, no query, no
// fragment).
func (cfg *Config) checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.User != nil || strings.ContainsAny(text, "?#"):
		return errors.New("the issuer URL is not one like https://issuer.example/path, with a host and without user-info, query and fragment")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && (isListed(cfg.InsecureHosts, u.Hostname()) || cfg.AllowLoopback && httputil.IsLoopback(u.Hostname())):
		return nil
	default:
		return errors.New("the issuer URL is not https (for development, http is accepted for the hosts in oidc.insecure_hosts, " +
			"and with oidc.allow_loopback on loopback addresses)")
	}
}

// isListed reports whether host is one of hosts, without regard to case.
func isListed(hosts []string, host string) bool {
	return slices.ContainsFunc(hosts, func(listed string) bool { return strings.EqualFold(listed, host) })
}
