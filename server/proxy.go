// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/internal/share"
)

// maxProxyHeader limits the header of the PROXY protocol. Version 1 has at most 107 bytes; version 2
// has 52 and whatever the proxy adds, such as the name of an endpoint.
const maxProxyHeader = 4 << 10

// proxyPeers are the proxies from which a listener accepts connections with the PROXY protocol.
type proxyPeers struct {
	trusted []netip.Prefix
	refused *prometheus.CounterVec
}

func newProxies(trusted []netip.Prefix, registry prometheus.Registerer) *proxyPeers {
	p := &proxyPeers{trusted: trusted, refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mayfly_proxy_protocol_refused_total",
		Help: "Connections to listeners of listen.proxy_protocol that were closed, by fault: address (not in trusted_proxies), or header (none, an unreadable one, or none in time).",
	}, []string{"fault"})}
	for _, fault := range []string{"address", "header"} {
		p.refused.WithLabelValues(fault)
	}
	registry.MustRegister(p.refused)
	return p
}

// proxiesOf returns the proxies of a listener; nil if it does not use the PROXY protocol.
func (s *Server) proxiesOf(listener string) *proxyPeers {
	if slices.Contains(s.cfg.ProxyProtocol, listener) {
		return s.proxies
	}
	return nil
}

// permit reports whether a connection may be served, and otherwise closes it.
func (p *proxyPeers) permit(raw net.Conn) bool {
	if p == nil {
		return true
	}
	if peer, ok := parseHop(raw.RemoteAddr().String()); ok && contains(p.trusted, peer) {
		return true
	}
	p.refused.WithLabelValues("address").Inc()
	_ = raw.Close()
	return false
}

// proxied is the state of a connection with the PROXY protocol.
type proxied struct {
	*proxyPeers
	once   sync.Once // reads the header, and sets what follows
	err    error
	client net.Addr      // from the header; nil if the proxy itself is the client
	rest   *bufio.Reader // what was read beyond the header; nil once it is used up
}

// proxyHeader reads the header of the PROXY protocol, once, if the connection must have one. Without a
// header, it closes the connection.
func (c *conn) proxyHeader() error {
	p := c.proxied
	if p == nil {
		return nil
	}
	p.once.Do(func() {
		timer := time.AfterFunc(readHeaderTimeout, func() { _ = c.Close() })
		defer timer.Stop()
		p.rest = bufio.NewReaderSize(io.LimitReader(c.Conn, maxProxyHeader), 512)
		var header *proxyproto.Header
		if header, p.err = proxyproto.Read(p.rest); p.err != nil {
			p.refused.WithLabelValues("header").Inc()
			_ = c.Close()
			return
		}
		if header.Command.IsLocal() || header.SourceAddr == nil {
			return
		}
		if client, ok := parseHop(header.SourceAddr.String()); ok {
			p.client, c.remote = header.SourceAddr, header.SourceAddr.String()
			own, _ := share.Networks(client)
			c.conns.move(c, own)
		}
	})
	return p.err
}

// RemoteAddr returns the address of the client. It may wait for the proxy to send it; net/http calls
// it first of all, before it sets a deadline.
func (c *conn) RemoteAddr() net.Addr {
	if c.proxyHeader() == nil && c.proxied != nil && c.proxied.client != nil {
		return c.proxied.client
	}
	return c.Conn.RemoteAddr()
}

// readProxied reads what follows the header of the PROXY protocol.
func (c *conn) readProxied(b []byte) (int, error) {
	if err := c.proxyHeader(); err != nil {
		return 0, err
	}
	if c.proxied != nil && c.proxied.rest != nil {
		if c.proxied.rest.Buffered() > 0 {
			return c.proxied.rest.Read(b)
		}
		c.proxied.rest = nil
	}
	return c.Conn.Read(b)
}
