// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// streamClient is an HTTP/2 client that gives answers no window.
type streamClient struct {
	conn     net.Conn
	framer   *http2.Framer
	mu       sync.Mutex
	answered map[uint32]bool
	reset    map[uint32]bool
}

func newStreamClient(t *testing.T, l pipeListener) *streamClient {
	t.Helper()
	server, client := net.Pipe()
	l <- server
	c := &streamClient{conn: client, framer: http2.NewFramer(client, client), answered: make(map[uint32]bool), reset: make(map[uint32]bool)}
	if _, err := io.WriteString(client, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			frame, err := c.framer.ReadFrame()
			if err != nil {
				return
			}
			c.mu.Lock()
			switch f := frame.(type) {
			case *http2.HeadersFrame:
				c.answered[f.StreamID] = true
			case *http2.RSTStreamFrame:
				c.reset[f.StreamID] = true
			}
			c.mu.Unlock()
		}
	}()
	if err := c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
		t.Fatal(err)
	}
	return c
}

// get sends a request on a new stream.
func (c *streamClient) get(t *testing.T, stream uint32, path string) {
	t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "ca.example"}, {Name: ":path", Value: path}} {
		if err := encoder.WriteField(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
		t.Fatal(err)
	}
}

func (c *streamClient) count() (answered, reset int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.answered), len(c.reset)
}

// TestRequestsUnderWayAreBounded: the limit applies to all connections together, also while answers
// wait for a window; and the requests end.
func TestRequestsUnderWayAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.Limits.InFlight = 10 }) // 30 requests, 15 for one client
		pipes := make(pipeListener)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Serve(ctx, Listeners{HTTP: pipes}) }()
		var answered, reset int
		var clients []*streamClient
		for range 3 {
			c := newStreamClient(t, pipes)
			clients = append(clients, c)
			for i := range uint32(10) {
				c.get(t, 2*i+1, "/healthz")
			}
			synctest.Wait()
			a, r := c.count()
			answered, reset = answered+a, reset+r
		}
		if answered != 3+15 || reset != 12 { // one for each connection
			t.Errorf("of 30 requests without a window, %d were answered and %d reset", answered, reset)
		}
		http1 := pipes.get(t, "GET", "/healthz")
		if answer, err := io.ReadAll(http1); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
			t.Errorf("a client of HTTP/1.1: %v\n%s", err, answer)
		}
		time.Sleep(f.limits.Write + time.Second)
		synctest.Wait()
		for free := 30; free > 15; free-- {
			if !f.handlers.Take(netip.MustParseAddr("192.0.2.1"), time.Time{}) {
				t.Fatalf("%d of 30 places are taken when every answer has run out of time", 30-free)
			}
		}
		if got := f.count(t, apiRESTv2, methodUnknown, "OVERLOADED"); got != 12 {
			t.Errorf("%v requests were counted as OVERLOADED, want 12", got)
		}
		for _, c := range clients {
			_ = c.conn.Close()
		}
		_ = http1.Close()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestLargeBodiesHaveFewPlaces: clients that send large bodies slowly block no others, and lose
// their places.
func TestLargeBodiesHaveFewPlaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.Limits.InFlight = 16 }) // two places, one for a client
		pipes := make(pipeListener)
		edge := f.httpServer(f.track(f.Handler()), true, nil)
		done := make(chan error, 1)
		go func() { done <- edge.Serve(pipes) }()
		send := func(length, sent int) net.Conn {
			server, client := net.Pipe()
			pipes <- server
			_, err := io.WriteString(client, fmt.Sprintf("POST /api/v2/signingCert HTTP/1.1\r\nHost: ca.example\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", length, strings.Repeat(" ", sent)))
			if err != nil {
				t.Error(err)
			}
			return client
		}
		status := func(client net.Conn) string {
			answer, _ := io.ReadAll(client) // the server may close it before the end of the body
			line, _, _ := strings.Cut(string(answer), "\r\n")
			_ = client.Close()
			return line
		}
		slow := send(40_000, 20_000)
		synctest.Wait()
		if got := status(send(40_000, ordinaryBody)); !strings.Contains(got, " 429 ") {
			t.Errorf("a large body without a place: %q", got)
		}
		if got := status(send(ordinaryBody-1, ordinaryBody-1)); !strings.Contains(got, " 400 ") {
			t.Errorf("an ordinary body: %q", got)
		}
		time.Sleep(f.limits.Read + time.Second)
		_ = slow.Close()
		synctest.Wait()
		if got := status(send(40_000, 40_000)); !strings.Contains(got, " 400 ") {
			t.Errorf("a large body after the slow one has run out of time: %q", got)
		}
		_ = edge.Close()
		<-done
	})
}

// TestKernelHoldsLittle: the kernel does not keep what a client does not read either.
func TestKernelHoldsLittle(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newListener(tcp, f.conns, nil)
	t.Cleanup(func() { _ = l.Close() })
	client, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accepted.Close() })
	raw, err := accepted.(*conn).Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	if errControl := raw.Control(func(fd uintptr) { size, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF) }); errControl != nil || err != nil {
		t.Fatal(errControl, err)
	}
	if size > 2*sendBuffer { // Linux doubles it for its own data
		t.Errorf("the kernel may hold %d bytes of a connection; at most %d are expected", size, 2*sendBuffer)
	}
}

// TestRequestsOfOneConnection: an ordinary HTTP/2 client gets complete answers.
func TestRequestsOfOneConnection(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	edge := f.httpServer(f.track(f.Handler()), true, nil)
	go func() { _ = edge.Serve(l) }()
	t.Cleanup(func() { _ = edge.Close() })
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	t.Cleanup(client.CloseIdleConnections)
	var running sync.WaitGroup
	for range 50 {
		running.Go(func() {
			response, err := client.Get("http://" + l.Addr().String() + "/healthz")
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(response.Body)
			if err != nil || string(body) != `{"status":"SERVING"}` || response.ContentLength != int64(len(body)) {
				t.Errorf("got %q with a length of %d: %v", body, response.ContentLength, err)
			}
		})
	}
	running.Wait()
}
