// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"bufio"
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

// reach says how connections are opened.
type reach struct {
	policy   *addressPolicy // of the addresses that are dialled
	roots    *x509.CertPool // for TLS; nil for the system's
	resolver *net.Resolver  // nil for the system's
}

// newTransport returns a transport of our own: no proxy from the environment, addresses
// checked when they are dialled, and no compression, so that the limit on bytes is one.
func newTransport(r reach) http.RoundTripper {
	dialer := &net.Dialer{
		Timeout:  fetchTimeout,
		Resolver: r.resolver,
		// After name resolution and for each address tried, so that no name can lead
		// elsewhere than was checked.
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return r.policy.checkDial(address)
		},
	}
	return newHTTPTransport(dialer, r.roots)
}

func newHTTPTransport(dialer *net.Dialer, roots *x509.CertPool) *http.Transport {
	// HTTP/2 has nothing to give to two small documents in a quarter of an hour, and a server can
	// keep a connection of it busy for ever with frames that belong to no request.
	var http1 http.Protocols
	http1.SetHTTP1(true)
	return &http.Transport{
		Proxy: nil,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if tcp, ok := conn.(*net.TCPConn); ok {
				// What is sent beyond the limit on bytes is not to pile up in the kernel.
				_ = tcp.SetReadBuffer(maxDocument / 2)
			}
			return conn, err
		},
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    fetchTimeout,
		ResponseHeaderTimeout:  fetchTimeout,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConns:           16,
		MaxIdleConnsPerHost:    2,
		MaxConnsPerHost:        8,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		Protocols:              &http1,
	}
}

// addressPolicy says which addresses may be dialled. Whatever it does not name is refused:
// link-local addresses with the metadata services of clouds, multicast, and reserved ranges.
type addressPolicy struct {
	public, private, loopback bool
	privateRanges             []netip.Prefix
	refusedRanges             []netip.Prefix
	nat64                     netip.Prefix
}

// newAddressPolicy returns the policy for public addresses alone.
func newAddressPolicy() *addressPolicy {
	prefixes := func(texts ...string) (list []netip.Prefix) {
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	return &addressPolicy{
		public: true,
		// RFC 1918, RFC 6598 and RFC 4193.
		privateRanges: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
		// What RFC 6890 and its registries call not globally reachable, the tunnels that
		// carry other addresses inside (6to4, Teredo, local NAT64), and, last, the metadata
		// services that are not link-local: those of Alibaba, Azure and AWS over IPv6.
		refusedRanges: prefixes("0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15",
			"198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "::/96", "64:ff9b:1::/48", "100::/64",
			"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
			"100.100.100.200/32", "168.63.129.16/32", "fd00:ec2::/32"),
		nat64: netip.MustParsePrefix("64:ff9b::/96"), // RFC 6052
	}
}

func (p *addressPolicy) checkDial(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("parsing address: %w", err)
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return fmt.Errorf("parsing address: %w", err)
	}
	if !p.allows(addr) {
		return fmt.Errorf("address %s is refused for an issuer", addr)
	}
	return nil
}

func (p *addressPolicy) allows(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if p.nat64.Contains(addr) {
		sixteen := addr.As16()
		addr = netip.AddrFrom4([4]byte(sixteen[12:]))
	}
	switch {
	case addr.IsLoopback():
		return p.loopback
	case !addr.IsGlobalUnicast(): // link-local, multicast, unspecified, broadcast
		return false
	case contains(p.refusedRanges, addr): // first, as some metadata services have private addresses
		return false
	case contains(p.privateRanges, addr):
		return p.private
	default:
		return p.public
	}
}

func contains(ranges []netip.Prefix, addr netip.Addr) bool {
	for _, r := range ranges {
		if r.Contains(addr) {
			return true
		}
	}
	return false
}

// guard stands between go-oidc's HTTP client and the network. It lets through answers that
// are a document of bounded size, or a redirect, and turns the rest into errors without
// their bodies.
type guard struct {
	https http.RoundTripper
	http  http.RoundTripper // to loopback addresses; nil refuses http
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	transport := g.https
	if req.URL.Scheme != "https" {
		transport = g.http
	}
	if transport == nil {
		return nil, fmt.Errorf("scheme %s is refused for an issuer", req.URL.Scheme)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK && !isRedirect(resp) {
		resp.Body.Close()
		return nil, fmt.Errorf("unexpected status %d", resp.StatusCode)
	}
	if resp.ContentLength > maxDocument {
		resp.Body.Close()
		return nil, fmt.Errorf("the body has %d bytes, and exceeds %d", resp.ContentLength, maxDocument)
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, limited: bufio.NewReader(io.LimitReader(resp.Body, maxDocument+1))}
	return resp, nil
}

// isRedirect tells whether http.Client will follow resp, or refuse to.
func isRedirect(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return resp.Header.Get("Location") != ""
	default:
		return false
	}
}

// limitedBody fails once more than maxDocument bytes have come, and never reads more than
// one above it. It skips a byte order mark, which a reader of JSON may ignore (RFC 8259, section
// 8.1) and a JSON decoder refuses.
type limitedBody struct {
	io.ReadCloser
	limited *bufio.Reader
	started bool
	read    int
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if !b.started {
		b.started = true
		if start, _ := b.limited.Peek(3); string(start) == "\ufeff" {
			b.read, _ = b.limited.Discard(3)
		}
	}
	n, err := b.limited.Read(p)
	if b.read += n; b.read > maxDocument {
		return n, fmt.Errorf("the body exceeds %d bytes", maxDocument)
	}
	return n, err
}

// sameOriginRedirect lets redirects stay where the request was meant to go (CVE-2026-49478).
func sameOriginRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if origin(req.URL) != origin(via[0].URL) {
		return errors.New("redirect to another origin")
	}
	return nil
}

// origin is scheme, host and port (RFC 6454, section 4).
func origin(u *url.URL) string { return u.Scheme + "://" + hostPort(u) }

// hostPort is the host in lower case and the port, without the scheme's default one.
func hostPort(u *url.URL) string {
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "https":
		return strings.TrimSuffix(host, ":443")
	case "http":
		return strings.TrimSuffix(host, ":80")
	default:
		return host
	}
}
