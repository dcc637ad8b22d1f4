// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Limits on one fetch.
const (
	maxDocument  = 256 << 10 // bytes of a discovery document or key set
	maxRedirects = 3
	fetchTimeout = 5 * time.Second
)

// reach holds the settings of connections.
type reach struct {
	allowed  addresses      // that may be dialled; not checked with proxy
	roots    *x509.CertPool // for TLS; nil for the system's
	resolver *net.Resolver  // nil for the system's
	proxy    *url.URL       // nil for none; the environment's is not used
}

// newTransport returns this package's own transport, which checks addresses when it dials them.
func newTransport(r reach) http.RoundTripper {
	dialer := &net.Dialer{Timeout: fetchTimeout, Resolver: r.resolver}
	if r.proxy == nil {
		// The check runs after name resolution and for each address tried, so that no name can lead
		// to an unchecked address.
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil || !r.allowed.contain(to.Addr()) {
				return fmt.Errorf("address %s is refused for an issuer", to.Addr())
			}
			return nil
		}
	}
	// HTTP/2 has no benefit for two small documents in a quarter of an hour. A server can also keep
	// an HTTP/2 connection busy for ever with frames that belong to no request.
	var http1 http.Protocols
	http1.SetHTTP1(true)
	return &http.Transport{
		Proxy: func(*http.Request) (*url.URL, error) { return r.proxy, nil },
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if tcp, ok := conn.(*net.TCPConn); ok {
				// Data beyond the limit on bytes must not fill the kernel's buffer.
				_ = tcp.SetReadBuffer(maxDocument / 2)
			}
			return conn, err
		},
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
	if in(addr, "64:ff9b::/96") { // RFC 6052
		addr = lastFour(addr)
	}
	// Link-local addresses; those of Alibaba and Azure; for IPv6 those of AWS, Google, Oracle,
	// Scaleway, Akamai (Linode) and Alibaba.
	metadata := []string{"169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "fd00:ec2::/32", "fd20:ce::/64",
		"fd00:c1::/64", "fd00:42::/64", "fd00:a9fe:a9fe::/64", "fd00:100::/64"}
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
	case addr.Is6() && (isISATAP(addr) || in(lastFour(addr), metadata...)):
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

// isISATAP reports whether packets to an IPv6 address go through a tunnel to the IPv4 address
// inside it (RFC 5214, section 6.1).
func isISATAP(addr netip.Addr) bool {
	id := addr.As16()
	return id[8]&^2 == 0 && id[9] == 0 && id[10] == 0x5e && id[11] == 0xfe
}

// lastFour returns the IPv4 address in the last four octets of an IPv6 address.
func lastFour(addr netip.Addr) netip.Addr {
	octets := addr.As16()
	return netip.AddrFrom4([4]byte(octets[12:]))
}

// guard is between go-oidc's HTTP client and the network. It passes answers that are a document of
// bounded size, or a redirect. It turns all other answers into errors without their bodies.
type guard struct {
	https http.RoundTripper
	http  http.RoundTripper // to loopback addresses; nil refuses http
	// insecure connects to the insecureHosts, by http and https.
	insecure      http.RoundTripper
	insecureHosts []string
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	transport := g.https
	switch {
	case isListed(g.insecureHosts, req.URL.Hostname()):
		transport = g.insecure
	case req.URL.Scheme != "https":
		transport = g.http
	}
	if transport == nil {
		return nil, fmt.Errorf("scheme %s is refused for an issuer", req.URL.Scheme)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if slices.Contains([]int{301, 302, 303, 307, 308}, resp.StatusCode) && resp.Header.Get("Location") != "" {
		return resp, nil // http.Client follows or refuses it
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("unexpected status %d", resp.StatusCode)
	}
	document, err := readDocument(resp)
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(strings.NewReader(document))
	return resp, nil
}

// readDocument reads a body of at most maxDocument bytes, compressed or not, and no byte more than
// necessary. It skips a byte order mark, which a reader of JSON may ignore (RFC 8259, section 8.1)
// and a JSON decoder refuses.
func readDocument(resp *http.Response) (string, error) {
	if resp.ContentLength > maxDocument {
		return "", fmt.Errorf("the body has %d bytes, and exceeds %d", resp.ContentLength, maxDocument)
	}
	body := io.LimitReader(resp.Body, maxDocument+1)
	// Some servers have only a compressed copy, and send it without a request for it.
	if strings.EqualFold(resp.Header.Get("Content-Encoding"), "gzip") {
		unzipped, err := gzip.NewReader(bufio.NewReader(body))
		if err != nil {
			return "", fmt.Errorf("decompressing the body: %w", err)
		}
		body = io.LimitReader(unzipped, maxDocument+1)
	}
	document, err := io.ReadAll(body)
	if err != nil {
		return "", fmt.Errorf("reading the body: %w", err)
	}
	if len(document) > maxDocument {
		return "", fmt.Errorf("the body exceeds %d bytes", maxDocument)
	}
	return strings.TrimPrefix(string(document), "\ufeff"), nil
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

// hostPort returns the host in lower case and the port, without the scheme's default port.
func hostPort(u *url.URL) string {
	defaultPort := map[string]string{"https": ":443", "http": ":80"}[u.Scheme]
	return strings.TrimSuffix(strings.ToLower(u.Host), defaultPort)
}
