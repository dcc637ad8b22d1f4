// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pires/go-proxyproto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mayfly-ca/mayfly/internal/share"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// header returns a header of the PROXY protocol for a client.
func header(t testing.TB, version byte, client string) string {
	t.Helper()
	from := net.TCPAddrFromAddrPort(netip.MustParseAddrPort(client))
	h := proxyproto.HeaderProxyFromAddrs(version, from, &net.TCPAddr{IP: from.IP, Port: 443})
	text, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestProxyProtocol: both ports, with and without TLS, know the client by both versions, and count its
// connections for it.
func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	for _, useTLS := range []bool{false, true} {
		run := serve(t, false, useTLS, func(c *Config) { c.TrustedProxies, c.ProxyProtocol = proxies(), []string{"http", "grpc"} })
		dial := func(to, text string) (net.Conn, error) {
			c, err := net.Dial("tcp", to)
			if err == nil {
				_, err = io.WriteString(c, text)
			}
			return c, err
		}
		for version, client := range map[byte]string{1: "203.0.113.9:1234", 2: "[2001:db8::9]:1234"} {
			base, _ := run.client(t, false)
			base.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
				return dial(run.http, header(t, version, client))
			}
			scheme := map[bool]string{false: "http://", true: "https://"}[useTLS]
			r, _ := http.NewRequestWithContext(t.Context(), "GET", scheme+run.http+"/api/v2/trustBundle", nil)
			r.Header.Set("X-Request-Id", fmt.Sprintf("rest-%d-%t", version, useTLS))
			resp, err := base.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, resp)
			from := netip.MustParseAddrPort(client)
			if got := run.log.request(t, fmt.Sprintf("rest-%d-%t", version, useTLS)); got["client"] != from.Addr().String() || got["peer"] != client {
				t.Errorf("TLS %t, version %d: client %v, peer %v; %s is expected", useTLS, version, got["client"], got["peer"], client)
			}
			own, _ := share.Networks(from.Addr())
			run.conns.mu.Lock()
			if h := run.conns.holders[own]; h == nil || h.open != 1 {
				t.Errorf("TLS %t, version %d: the connections of %s are %v; one is expected", useTLS, version, own, h)
			}
			run.conns.mu.Unlock()
			conn := dialGRPC(t, run, func(context.Context, string) (net.Conn, error) { return dial(run.grpc, header(t, version, client)) })
			if _, err := fulciov2.NewCAClient(conn).GetTrustBundle(t.Context(), &fulciov2.GetTrustBundleRequest{}); err != nil {
				t.Errorf("TLS %t, version %d: gRPC: %v", useTLS, version, err)
			}
			if !strings.Contains(run.log.String(), `"api":"grpc","method":"GetTrustBundle","peer":"`+client) {
				t.Errorf("TLS %t, version %d: gRPC has another peer: %s", useTLS, version, run.log.String())
			}
		}
		for _, to := range []string{run.http, run.grpc} {
			for name, text := range map[string]string{
				"no header": "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "cut short": "PROXY TCP4 1.2.3.4\r\n", "a long header": "PROXY " + strings.Repeat("A", 200),
				"an unknown version":  "\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x0c" + strings.Repeat("\x00", 12),
				"more than the limit": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff" + strings.Repeat("\x00", 8<<10),
			} {
				c, err := dial(to, text)
				if err != nil {
					t.Fatal(err)
				}
				if answer, _ := io.ReadAll(c); len(answer) > 0 {
					t.Errorf("TLS %t, %s: the answer is %q", useTLS, name, answer)
				}
				_ = c.Close()
			}
		}
		if got := run.metric(t, `mayfly_proxy_protocol_refused_total{fault="header"}`); !strings.HasSuffix(got, " 10\n") {
			t.Errorf("TLS %t: counted %q, want 10", useTLS, got)
		}
	}
}

func dialGRPC(t testing.TB, run *running, dial func(context.Context, string) (net.Conn, error)) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if run.roots != nil {
		creds = credentials.NewTLS(&tls.Config{RootCAs: run.roots})
	}
	conn, err := grpc.NewClient("passthrough:"+run.grpc, grpc.WithTransportCredentials(creds), grpc.WithContextDialer(dial))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Only trusted proxies reach a listener with the PROXY protocol.
func TestProxyProtocolFromOthers(t *testing.T) {
	t.Parallel()
	run := serve(t, true, false, func(c *Config) {
		c.TrustedProxies, c.ProxyProtocol = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, []string{"http"}
	})
	c, err := net.Dial("tcp", run.http)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, header(t, 1, "203.0.113.9:1234")+"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
	if answer, _ := io.ReadAll(c); len(answer) > 0 {
		t.Errorf("the answer is %q", answer)
	}
	if got := run.metric(t, `mayfly_proxy_protocol_refused_total{fault="address"}`); !strings.HasSuffix(got, " 1\n") {
		t.Errorf("counted %q, want 1", got)
	}
}

// proxiedPipes serves a fixture on pipes with a trusted proxy at the other end.
type proxiedPipe struct{ net.Conn }

func (proxiedPipe) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1} }

// A proxy that sends its header slowly blocks no other connection, and is closed. A connection that the
// proxy opens for itself has the proxy's address.
func TestProxyProtocolIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.TrustedProxies, c.ProxyProtocol = proxies(), []string{"http"} })
		pipes, stop := f.servePipes(t)
		open := func(text string) net.Conn {
			server, client := net.Pipe()
			pipes <- proxiedPipe{server}
			if _, err := io.WriteString(client, text); err != nil {
				t.Error(err)
			}
			return client
		}
		slow := open("PRO")
		local := open("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00" + "GET /api/v2/trustBundle HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Request-Id: local\r\n\r\n")
		if answer, err := io.ReadAll(local); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
			t.Errorf("%v: %s", err, answer)
		}
		if got := f.log.request(t, "local")["client"]; got != "10.0.0.1" {
			t.Errorf("the client of a local connection is %v", got)
		}
		begin := time.Now()
		if answer, _ := io.ReadAll(slow); len(answer) > 0 || time.Since(begin) > readHeaderTimeout {
			t.Errorf("a slow header: %q after %v", answer, time.Since(begin))
		}
		_, _ = local.Close(), slow.Close()
		stop()
	})
}

// FuzzProxyHeader: whatever is sent, the rest of an accepted header is read, exactly, and no more than the
// limit is read of another.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte(header(f, 1, "203.0.113.9:1")), []byte("rest"))
	f.Add([]byte(header(f, 2, "[2001:db8::9]:1")), []byte("rest"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"), []byte{})
	f.Add([]byte("PROXY UNKNOWN\r\n"), []byte("GET"))
	s := newFixture(f, func(c *Config) { c.TrustedProxies = proxies() })
	f.Fuzz(func(t *testing.T, head, rest []byte) {
		all := append(bytes.Clone(head), rest...)
		near, far := net.Pipe()
		go func() { _, _ = far.Write(all); _ = far.Close() }()
		c := newConn(proxiedPipe{near}, newConnections(0, 0, nil))
		c.proxied = &proxied{proxyPeers: s.proxies}
		got, err := io.ReadAll(c)
		_, want := proxyproto.Read(bufio.NewReader(io.LimitReader(bytes.NewReader(all), maxProxyHeader)))
		if want != nil {
			if err == nil || len(got) > 0 {
				t.Fatalf("%q, %v; the header is none: %v", got, err, want)
			}
		} else if !bytes.HasSuffix(all, got) || len(got) >= len(all) {
			t.Fatalf("%q is not the rest of %q", got, all)
		}
		_ = c.Close()
		if c.RemoteAddr() == nil {
			t.Fatal("no address")
		}
	})
}
