// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// crowded serves with at most n connections.
func crowded(t *testing.T, n int, useTLS bool) *running {
	return serve(t, false, useTLS, func(c *Config) { c.Limits.Connections = n })
}

// opened is a connection that a test can watch until the server closes it.
type opened struct {
	net.Conn
	r *bufio.Reader
}

func (r *running) open(t *testing.T, address string, protocols ...string) *opened {
	t.Helper()
	var conn net.Conn
	var err error
	if r.roots == nil {
		conn, err = net.Dial("tcp", address)
	} else {
		conn, err = tls.Dial("tcp", address, &tls.Config{RootCAs: r.roots, NextProtos: protocols})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &opened{conn, bufio.NewReader(conn)}
}

// ask sends a request and reads its answer.
func (o *opened) ask(t *testing.T) error {
	t.Helper()
	if _, err := io.WriteString(o, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(o.r, nil)
	if err != nil {
		return err
	}
	readAll(t, resp)
	return nil
}

// TestHeldConnectionsKeepNoClientOut holds many more connections than there are places, in every
// state that needs no complete request, over both listeners. Each new client is answered.
func TestHeldConnectionsKeepNoClientOut(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]string{
		"nothing":              "",
		"one byte":             "P",
		"half a header":        "POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"half a body":          "POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
		"an answered request":  "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
		"the preface":          http2.ClientPreface,
		"preface and settings": http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"a request whose answer gets no window": http2.ClientPreface + "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00" +
			"\x00\x00\x0d\x01\x05\x00\x00\x00\x01\x82\x86\x04\x06/livez\x01\x01x",
		"settings and pings": http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + strings.Repeat("\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678", 100),
	} {
		for _, useTLS := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s TLS=%t", name, useTLS), func(t *testing.T) {
				t.Parallel()
				run := crowded(t, 8, useTLS)
				protocol := "http/1.1"
				if strings.HasPrefix(sent, http2.ClientPreface) {
					protocol = "h2"
				}
				for range 3 {
					for i := range 12 {
						address := []string{run.http, run.grpc}[i%2]
						conn, err := net.Dial("tcp", address)
						if err != nil {
							t.Fatal(err)
						}
						t.Cleanup(func() { _ = conn.Close() })
						go func(conn net.Conn) { // a handshake waits for its place
							if useTLS {
								conn = tls.Client(conn, &tls.Config{RootCAs: run.roots, ServerName: "127.0.0.1", NextProtos: []string{protocol}})
							}
							_, _ = io.WriteString(conn, sent)
						}(conn)
					}
					for _, http2 := range []bool{false, true} {
						client, base := run.client(t, http2)
						if err := post(client, base); err != nil {
							t.Fatalf("HTTP/2 %t: %v", http2, err)
						}
						client.CloseIdleConnections()
					}
					if err := run.create(t); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

// TestIdleConnectionGetsGoAway: before an idle HTTP/2 connection is closed, its client learns which
// of its requests were answered.
func TestIdleConnectionGetsGoAway(t *testing.T) {
	t.Parallel()
	for _, useTLS := range []bool{false, true} {
		for _, requests := range []int{0, 1, 3} {
			for _, own := range []bool{false, true} {
				t.Run(fmt.Sprintf("TLS=%t requests=%d gRPC=%t", useTLS, requests, own), func(t *testing.T) {
					t.Parallel()
					run := crowded(t, 1, useTLS)
					address, send := run.http, sendGet
					if own {
						address, send = run.grpc, sendCheck
					}
					framer := run.openHTTP2(t, address)
					for i := range requests {
						send(t, framer, uint32(2*i+1))
					}
					waitAnswers(t, framer, requests)
					if err := run.open(t, run.http, "http/1.1").ask(t); err != nil {
						t.Fatal(err)
					}
					goAway, ok := nextFrame(t, framer).(*http2.GoAwayFrame)
					if !ok || goAway.ErrCode != http2.ErrCodeNo || int(goAway.LastStreamID) != max(2*requests-1, 0) {
						t.Errorf("got %v", goAway)
					}
					if frame, err := framer.ReadFrame(); err == nil {
						t.Errorf("after it came %v", frame)
					}
				})
			}
		}
	}
}

// TestRequestThatMeetsGoAway sends a request on a connection that has just been chosen to be closed.
// Its stream is not reset before the GOAWAY, after which the client may send the request again.
func TestRequestThatMeetsGoAway(t *testing.T) {
	t.Parallel()
	for _, own := range []bool{false, true} {
		run := crowded(t, 2, false)
		address, send := run.http, sendGet
		if own {
			address, send = run.grpc, sendCheck
		}
		framer := run.openHTTP2(t, address)
		send(t, framer, 1)
		waitAnswers(t, framer, 1)
		pingAll(t, framer) // its acknowledgement follows the end of the answer
		p := run.conns
		p.mu.Lock()
		c := slices.Collect(maps.Keys(p.all))[0]
		c.closing = true
		outer, lastStream := c.outer, c.lastStream()
		p.mu.Unlock()
		send(t, framer, 3)
		pingAll(t, framer)
		c.dismiss(outer, lastStream)
		if goAway, ok := nextFrame(t, framer).(*http2.GoAwayFrame); !ok || goAway.LastStreamID != 1 {
			t.Errorf("gRPC=%t: got %v, want GOAWAY after stream 1", own, goAway)
		}
		if frame, err := framer.ReadFrame(); err == nil {
			t.Errorf("gRPC=%t: after it came %v", own, frame)
		}
	}
}

// openHTTP2 opens a connection and reads the server's acknowledgement of its settings.
func (r *running) openHTTP2(t *testing.T, address string) *http2.Framer {
	t.Helper()
	o := r.open(t, address, "h2")
	if _, err := io.WriteString(o, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(o, o.r)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	for {
		if s, ok := nextFrame(t, framer).(*http2.SettingsFrame); ok && s.IsAck() {
			return framer
		}
	}
}

// sendGet sends a GET request over HTTP/2.
func sendGet(t *testing.T, framer *http2.Framer, stream uint32) {
	t.Helper()
	// GET, http, /livez and an empty authority, by HPACK's static table and literals.
	block := append([]byte{0x82, 0x86, 0x04, 6}, "/livez"...)
	block = append(block, 0x01, 1, 'x')
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block, EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
}

// sendCheck sends a request for health over gRPC.
func sendCheck(t *testing.T, framer *http2.Framer, stream uint32) {
	t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encoder.SetMaxDynamicTableSizeLimit(0) // each block is complete by itself
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/grpc.health.v1.Health/Check"}, {"content-type", "application/grpc"},
	} {
		_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true})
	if err := errors.Join(err, framer.WriteData(stream, true, make([]byte, framePrefix))); err != nil {
		t.Fatal(err)
	}
}

// waitAnswers waits for the ends of n answers.
func waitAnswers(t *testing.T, framer *http2.Framer, n int) {
	t.Helper()
	for n > 0 {
		switch f := nextFrame(t, framer).(type) {
		case *http2.DataFrame:
			if f.StreamEnded() {
				n--
			}
		case *http2.HeadersFrame: // the trailers of gRPC
			if f.StreamEnded() {
				n--
			}
		}
	}
}

// pingAll waits until the server has read everything that was sent.
func pingAll(t *testing.T, framer *http2.Framer) {
	t.Helper()
	if err := framer.WritePing(false, [8]byte{1}); err != nil {
		t.Fatal(err)
	}
	if frame, ok := nextFrame(t, framer).(*http2.PingFrame); !ok {
		t.Fatalf("got %v, want the answer to a ping", frame)
	}
}

// nextFrame reads the next frame that is not WINDOW_UPDATE.
func nextFrame(t *testing.T, framer *http2.Framer) http2.Frame {
	t.Helper()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if frame.Header().Type != http2.FrameWindowUpdate {
			return frame
		}
	}
}

// TestBusyConnectionIsNeverClosed keeps a request in progress on each connection. A new client
// waits until the first request ends, and ops is served.
func TestBusyConnectionIsNeverClosed(t *testing.T) {
	t.Parallel()
	run := crowded(t, 2, false)
	entered, release := run.hold()
	busy, answered := make(chan error, 2), make(chan error, 1)
	client, base := run.client(t, false)
	for range 2 {
		go func() { busy <- post(client, base) }()
		<-entered
	}
	go func() { answered <- run.open(t, run.http).ask(t) }()
	resp, err := http.Get("http://" + run.opsAddress + "/readyz")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("ops: %v %v", resp, err)
	}
	select {
	case err := <-answered:
		t.Error("answered beyond the limit")
		answered <- err
	default:
	}
	close(release)
	if err := errors.Join(<-busy, <-busy, <-answered); err != nil {
		t.Error(err)
	}
}

// TestAnswerWithoutABodyBegins: a refusal over gRPC has no body; its connection is busy no longer than
// that of another answer.
func TestAnswerWithoutABodyBegins(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	near, _ := net.Pipe()
	q := &request{conn: newConn(near, f.conns)}
	q.begin()
	w := f.steady(httptest.NewRecorder())
	w.begins = q
	if w.Flush(); q.conn.requests != 0 || q.conn.answers != 1 || w.status != http.StatusOK {
		t.Errorf("%d requests and %d answers, status %d", q.conn.requests, q.conn.answers, w.status)
	}
}

func FuzzGoAway(f *testing.F) {
	f.Add(uint32(0))
	f.Add(uint32(1<<31 - 1))
	f.Fuzz(func(t *testing.T, stream uint32) {
		stream &= 1<<31 - 1
		frame, err := http2.NewFramer(io.Discard, strings.NewReader(string(goAway(int(stream))))).ReadFrame()
		if g, ok := frame.(*http2.GoAwayFrame); err != nil || !ok || g.LastStreamID != stream || g.ErrCode != http2.ErrCodeNo {
			t.Errorf("%v, %v", frame, err)
		}
	})
}

// hookedConn records write deadlines. Before the first one it calls first.
type hookedConn struct {
	net.Conn
	first     func()
	deadlines []time.Time
}

func (h *hookedConn) SetWriteDeadline(at time.Time) error {
	if first := h.first; first != nil {
		h.first = nil
		first()
	}
	h.deadlines = append(h.deadlines, at)
	return nil
}

// TestDismissLimitsACurrentWrite: a write that began just before dismiss does not replace its deadline
// by a later one.
func TestDismissLimitsACurrentWrite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer func() { _ = near.Close() }()
		go func() { _, _ = io.Copy(io.Discard, near) }()
		hooked := &hookedConn{Conn: far}
		c := newConn(hooked, newConnections(0, 0, nil))
		c.own.Store(true)
		hooked.first = func() { c.dismiss(nil, -1) } // writes nothing, so the deadline is Write's alone
		_, _ = c.Write([]byte("x"))
		if n := len(hooked.deadlines); n == 0 || time.Until(hooked.deadlines[n-1]) != lastWords {
			t.Errorf("the deadlines are %v", hooked.deadlines)
		}
	})
}
