// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/idna"

	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/httputil"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

// reach holds the settings of connections.
type reach struct {
	allowed  addresses      // that may be dialled; not checked with proxy
	roots    *x509.CertPool // for TLS; nil for the system's
	resolver *net.Resolver  // nil for the system's
	proxy    *url.URL       // nil for none; the environment's is not used
	trusted  *x509.CertPool // for TLS to the proxy; nil for roots
}

// transportFunc opens connections.
type transportFunc func(reach) http.RoundTripper

// shared returns open, except that entries with the same settings of connections share them: thousands
// of issuers need no idle connections and no memory of their own. It is for one goroutine.
func (open transportFunc) shared() transportFunc {
	known := make(map[reach]http.RoundTripper)
	return func(r reach) http.RoundTripper {
		if known[r] == nil {
			known[r] = open(r)
		}
		return known[r]
	}
}

// newTransport returns this package's own transport, which checks addresses when it dials them.
func newTransport(r reach) http.RoundTripper {
	dialer := &net.Dialer{Timeout: fetchTimeout, Resolver: r.resolver}
	if r.proxy == nil {
		// After name resolution, and for each address tried: no name leads to an unchecked address.
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil || !r.allowed.contain(to.Addr()) {
				hint := ""
				if privateAddresses.contain(to.Addr()) {
					hint = "; it is private, which allow-private-network: true in the entry permits"
				}
				return fmt.Errorf("address %s is refused for an issuer%s", to.Addr(), hint)
			}
			return nil
		}
	}
	// A server can keep an HTTP/2 connection busy for ever with frames that belong to no request.
	var http1 http.Protocols
	http1.SetHTTP1(true)
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if tcp, ok := conn.(*net.TCPConn); ok {
			// Data beyond the limit on bytes must not fill the kernel's buffer.
			_ = tcp.SetReadBuffer(maxDocument / 2)
		}
		return conn, err
	}
	transport := &http.Transport{
		Proxy:                 func(*http.Request) (*url.URL, error) { return r.proxy, nil },
		DialContext:           dial,
		TLSClientConfig:       &tls.Config{RootCAs: r.roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   fetchTimeout,
		ResponseHeaderTimeout: fetchTimeout,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConns:          16,
		MaxIdleConnsPerHost:   2,
		// With fewer, slow issuers that one client names would delay other issuers on their host.
		MaxConnsPerHost:        maxLookups + maxRefreshes,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		Protocols:              &http1,
	}
	if r.trusted != nil {
		transport.DialTLSContext = r.secured(dial)
	}
	return transport
}

// secured returns a function that opens TLS connections to the proxy. Those to issuers are inside of them.
func (r reach) secured(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
		defer cancel()
		plain, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		conn := tls.Client(plain, &tls.Config{RootCAs: r.trusted, ServerName: r.proxy.Hostname(), MinVersion: tls.VersionTLS12})
		if err := conn.HandshakeContext(ctx); err != nil {
			_ = plain.Close()
			return nil, err
		}
		return conn, nil
	}
}

// newClient returns the only HTTP client that connects to the entry's issuers. proxies opens connections to
// the proxy, and transport all others.
func (e *entry) newClient(cfg *Config, proxy *url.URL, transport, proxies transportFunc) (*http.Client, error) {
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
	allowed := publicAddresses
	if cfg.AllowLoopback {
		allowed |= loopbackAddresses
	}
	if e.AllowPrivateNetwork || e.inCluster {
		allowed |= privateAddresses
	}
	direct := func(allowed addresses) http.RoundTripper { return transport(reach{allowed: allowed, roots: roots}) }
	r := &router{https: direct(allowed)}
	switch {
	case e.inCluster:
		r.https = &clusterTransport{
			caFile: cfg.Kubernetes.CAFile, tokenFile: cfg.Kubernetes.TokenFile, origin: originOf(e.Key), extraCA: e.CACert,
			open: func(roots *x509.CertPool) http.RoundTripper { return transport(reach{allowed: allowed, roots: roots}) },
		}
	case proxy != nil && !e.AllowPrivateNetwork:
		r.https = &proxied{allowed: allowed, via: proxies(reach{roots: roots, proxy: proxy, trusted: cfg.ProxyRoots}), direct: r.https}
	}
	if len(cfg.InsecureHosts) > 0 && !e.inCluster { // the cluster's own issuer needs its token
		r.insecureHosts = cfg.InsecureHosts
		r.insecure = direct(publicAddresses | privateAddresses | loopbackAddresses | testAddresses)
	}
	if cfg.AllowLoopback {
		r.http = transport(reach{allowed: loopbackAddresses})
	}
	return &http.Client{Transport: r, CheckRedirect: sameOriginRedirect}, nil
}

// router selects the connection for a request.
type router struct {
	https         http.RoundTripper
	http          http.RoundTripper // to loopback addresses; nil refuses http
	insecure      http.RoundTripper // to the insecureHosts, by http and https
	insecureHosts []string
}

// RoundTrip implements http.RoundTripper.
func (r *router) RoundTrip(req *http.Request) (*http.Response, error) {
	transport := r.https
	switch {
	case isListed(r.insecureHosts, req.URL.Hostname()):
		transport = r.insecure
	case req.URL.Scheme != "https":
		transport = r.http
	}
	if transport == nil {
		return nil, fmt.Errorf("scheme %s is refused for an issuer", req.URL.Scheme)
	}
	return transport.RoundTrip(req)
}

// sameOriginRedirect permits only redirects within the origin of the request (CVE-2026-49478).
func sameOriginRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if origin(req.URL) != origin(via[0].URL) {
		return errors.New("redirect to another origin")
	}
	return nil
}

// origin returns scheme, host and port (RFC 6454, section 4).
func origin(u *url.URL) string { return u.Scheme + "://" + hostPort(u) }

// originOf returns the origin of a URL with a host, and "" for any other text.
func originOf(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return ""
	}
	return origin(u)
}

// hostPort returns the host in lower case and the port, without the scheme's default port.
func hostPort(u *url.URL) string {
	defaultPort := map[string]string{"https": ":443", "http": ":80"}[u.Scheme]
	return strings.TrimSuffix(strings.ToLower(u.Host), defaultPort)
}

// proxied connects to issuers through the operator's proxy, and directly to loopback hosts. The
// proxy resolves names and must check their addresses; proxied checks literal addresses.
type proxied struct {
	allowed     addresses
	via, direct http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (p *proxied) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Hostname()
	// net/http writes other forms of digits and dots as ASCII.
	if ascii, err := idna.Lookup.ToASCII(host); err == nil {
		host = ascii
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if httputil.IsLoopback(host) {
		return p.direct.RoundTrip(req)
	}
	addr, err := netip.ParseAddr(host)
	if err == nil && !p.allowed.contain(addr) || err != nil && (endsInNumber(host) || strings.HasSuffix(host, ".localhost")) {
		return nil, fmt.Errorf("address %s is refused for an issuer", quote(host))
	}
	return p.via.RoundTrip(req)
}

// endsInNumber reports whether resolvers may read a name as an IPv4 address, such as 2852039166,
// 0xa9.0xfe.43518 and 127.1 (WHATWG URL, section 3.5). The DNS has no such name.
func endsInNumber(host string) bool {
	last := host[strings.LastIndexByte(host, '.')+1:]
	hex, isHex := strings.CutPrefix(last, "0x")
	return isHex && strings.Trim(hex, "0123456789abcdef") == "" || last != "" && strings.Trim(last, "0123456789") == ""
}

// parseProxy returns nil for "". Its errors never repeat the URL, which may hold a password.
func parseProxy(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" {
		return nil, errors.New("the proxy's URL is not of the form http://host:port")
	}
	return u, nil
}

// isAPIServer reports whether issuer is the API server of the cluster that this process runs in: see
// Kubernetes.APIServer. Only that server gets the pod's token; the operator of another cluster could
// use it to act in this one. A private address of an entry with ca-cert or allow-private-network is
// another cluster's. inCluster states that https://kubernetes.default.svc is configured.
func isAPIServer(issuer Issuer, apiServer string, inCluster bool) bool {
	u, err := url.Parse(issuer.Key)
	if err != nil || issuer.Wildcard || !issuer.Kubernetes || u.Scheme != "https" || u.Host == "" {
		return false
	}
	switch origin(u) {
	case inClusterURL, inClusterURL + ".cluster.local", originOf(apiServer):
		return true
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return err == nil && (privateAddresses | loopbackAddresses).contain(addr) &&
		inCluster && !issuer.AllowPrivateNetwork && len(issuer.CACert) == 0
}

// clusterTransport connects to a Kubernetes API server from inside its cluster. It trusts only the
// cluster's CA and the entry's own, and sends the pod's token only to the issuer's own origin.
type clusterTransport struct {
	caFile, tokenFile string
	origin            string // of the issuer
	extraCA           []byte // PEM
	open              func(roots *x509.CertPool) http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (c *clusterTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	roots := x509.NewCertPool() // without the system's roots, which sign certificates for any name
	ca, err := files.Read(c.caFile, maxDocument)
	if err == nil {
		err = pem.CertPool(roots, ca)
	}
	if err == nil && len(c.extraCA) > 0 {
		err = pem.CertPool(roots, c.extraCA)
	}
	if err != nil {
		return nil, fmt.Errorf("reading cluster CA: %s: %w", c.caFile, err)
	}
	req = req.Clone(req.Context()) // a RoundTripper must not change its request
	if origin(req.URL) == c.origin {
		token, err := files.Read(c.tokenFile, maxDocument)
		if err == nil {
			token, err = files.Text(token)
		}
		text := strings.TrimSpace(string(token))
		if err == nil && text == "" {
			err = errors.New("the file is empty")
		}
		if err != nil {
			return nil, fmt.Errorf("reading service account token: %s: %w", c.tokenFile, err)
		}
		req.Header.Set("Authorization", "Bearer "+text)
	}
	return c.open(roots).RoundTrip(req)
}

// addresses is a set of kinds of IP addresses. No set contains link-local addresses, the metadata
// services of clouds, multicast, and reserved ranges.
type addresses uint8

const (
	publicAddresses addresses = 1 << iota
	privateAddresses
	loopbackAddresses
	testAddresses // for documentation and benchmarks
)

// contain reports whether addr is of a kind in the set.
func (a addresses) contain(addr netip.Addr) bool { return a&kindOf(addr) != 0 }

// kindOf returns the kind of an address; none if it must never be dialled.
func kindOf(addr netip.Addr) addresses {
	addr = addr.Unmap().WithZone("")
	in := func(addr netip.Addr, prefixes ...string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return netip.MustParsePrefix(p).Contains(addr) })
	}
	octets := addr.As16()
	lastFour := netip.AddrFrom4([4]byte(octets[12:]))
	if in(addr, "64:ff9b::/96") { // RFC 6052
		return kindOf(lastFour)
	}
	// Link-local addresses; those of Alibaba and Azure; for IPv6 those of AWS, Google, Oracle,
	// Scaleway, Akamai (Linode) and Alibaba.
	metadata := []string{"169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "fd00:ec2::/32", "fd20:ce::/64",
		"fd00:c1::/64", "fd00:42::/64", "fd00:a9fe:a9fe::/64", "fd00:100::/64"}
	isISATAP := octets[8]&^2 == 0 && octets[9] == 0 && octets[10] == 0x5e && octets[11] == 0xfe // RFC 5214, section 6.1
	switch {
	case addr.IsLoopback():
		return loopbackAddresses
	case !addr.IsGlobalUnicast(): // link-local, multicast, unspecified, broadcast
		return 0
	// Other ranges that RFC 6890 and its registries do not call globally reachable.
	case in(addr, "0.0.0.0/8", "192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4", "100::/64", "5f00::/16", "fec0::/10"):
		return 0
	// Addresses that contain IPv4 addresses: IPv4-compatible (RFC 4291, section 2.5.5.1),
	// IPv4-translated (RFC 2765), local NAT64 (RFC 8215), Teredo (RFC 4380, in 2001::/23), 6to4
	// (RFC 3056).
	case in(addr, "::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "2001::/23", "2002::/16"):
		return 0
	case in(addr, metadata...): // some have private addresses
		return 0
	// A network translates IPv6 addresses to IPv4 ones by a prefix of its own choice, mostly of 96
	// bits (RFC 6052, section 3.3).
	case addr.Is6() && (isISATAP || in(lastFour, metadata...)):
		return 0
	case in(addr, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"): // RFC 1918, RFC 6598, RFC 4193
		return privateAddresses
	// RFC 5737, RFC 2544, RFC 3849 and RFC 9637.
	case in(addr, "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15", "2001:db8::/32", "3fff::/20"):
		return testAddresses
	default:
		return publicAddresses
	}
}
