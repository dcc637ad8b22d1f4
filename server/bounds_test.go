// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/mayfly-ca/mayfly/ca"
)

// streamClient is an HTTP/2 client that gives answers no window.
type streamClient struct {
	*http2.Framer
	answered, reset atomic.Int32
}

func newStreamClient(t *testing.T, l pipeListener) *streamClient {
	t.Helper()
	client := l.open(t, http2.ClientPreface)
	t.Cleanup(func() { _ = client.Close() })
	c := &streamClient{Framer: http2.NewFramer(client, client)}
	go func() {
		for frame, err := c.ReadFrame(); err == nil; frame, err = c.ReadFrame() {
			switch frame.(type) {
			case *http2.HeadersFrame:
				c.answered.Add(1)
			case *http2.RSTStreamFrame:
				c.reset.Add(1)
			}
		}
	}()
	if err := c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRequestsUnderWayAreBounded: the limit applies to all connections together, also while answers
// wait for a window; and the requests end.
func TestRequestsUnderWayAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.Limits.InFlight = 10 }) // 30 requests, 15 for one client
		pipes, stop := f.servePipes(t)
		var answered, reset int32
		for range 3 {
			c := newStreamClient(t, pipes)
			for i := range uint32(10) {
				sendGet(t, c.Framer, 2*i+1)
			}
			synctest.Wait()
			answered, reset = answered+c.answered.Load(), reset+c.reset.Load()
		}
		if answered != 3+15 || reset != 12 { // one for each connection
			t.Errorf("of 30 requests without a window, %d were answered and %d reset", answered, reset)
		}
		http1 := pipes.get(t, "GET", "/healthz")
		if answer, err := io.ReadAll(http1); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
			t.Errorf("a client of HTTP/1.1: %v\n%s", err, answer)
		}
		time.Sleep(writeTimeout + time.Second)
		synctest.Wait()
		for free := 30; free > 15; free-- {
			if !f.handlers.Take(netip.MustParseAddr("192.0.2.1"), time.Time{}) {
				t.Fatalf("%d of 30 places are taken when every answer has run out of time", 30-free)
			}
		}
		const counted = `mayfly_requests_total{api="rest_v2",method="unknown",reason="OVERLOADED"} 12`
		if got := f.metric(t, "mayfly_requests_total"); strings.TrimSpace(got) != counted {
			t.Errorf("counted %s, want %s", got, counted)
		}
		_ = http1.Close()
		stop()
	})
}

// TestLargeBodiesHaveFewPlaces: clients that send large bodies slowly block no others, and lose
// their places.
func TestLargeBodiesHaveFewPlaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.Limits.InFlight = 16 }) // two places, one for a client
		pipes, stop := f.servePipes(t)
		send := func(length, sent int) net.Conn {
			return pipes.open(t, fmt.Sprintf("POST /api/v2/signingCert HTTP/1.1\r\nHost: ca.example\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", length, strings.Repeat(" ", sent)))
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
		time.Sleep(readTimeout + time.Second)
		_ = slow.Close()
		synctest.Wait()
		if got := status(send(40_000, 40_000)); !strings.Contains(got, " 400 ") {
			t.Errorf("a large body after the slow one has run out of time: %q", got)
		}
		stop()
	})
}

// TestKernelHoldsLittle: the kernel does not keep what a client does not read either.
func TestKernelHoldsLittle(t *testing.T) {
	t.Parallel()
	tcp, address := listen(t)
	l := newListener(tcp, newFixture(t, nil).conns, nil)
	defer l.Close()
	client, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	size := 0
	control(accepted.(*conn).Conn, func(fd uintptr) { size, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF) })
	if err != nil || size == 0 || size > 2*sendBuffer { // Linux doubles it for its own data
		t.Errorf("the kernel may hold %d bytes of a connection, %v; at most %d are expected", size, err, 2*sendBuffer)
	}
}

// TestReadersThatDoNotRead: such clients take only the few places of reads, and lose them after
// some seconds.
func TestReadersThatDoNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) {
			c.Limits.InFlight = 64 // four places for reads
			c.Mounts = []Mount{{Path: "/ctlog/a/", Name: "ctlog", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					_, _ = w.Write(make([]byte, 1<<20))
				}
			})}}
		})
		pipes, stop := f.servePipes(t)
		status := func(method, path string) int {
			client := pipes.get(t, method, path)
			defer func() { _ = client.Close() }()
			answer, err := http.ReadResponse(bufio.NewReader(client), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = answer.Body.Close() }()
			if n, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode == http.StatusOK && method == http.MethodGet && n < 100 {
				t.Errorf("%s %s: %d bytes, %v", method, path, n, err)
			}
			if answer.StatusCode == http.StatusTooManyRequests && answer.Header.Get("Retry-After") == "" {
				t.Error("a read without a place has no Retry-After")
			}
			return answer.StatusCode
		}
		var readers []net.Conn
		for range 2 { // one client gets half of the places
			readers = append(readers, pipes.get(t, "GET", "/ctlog/a/x"))
		}
		synctest.Wait()
		if got := status("GET", "/ctlog/a/x"); got != http.StatusTooManyRequests {
			t.Errorf("a read beyond the places: %d", got)
		}
		if got := status("POST", "/ctlog/a/x"); got != http.StatusOK {
			t.Errorf("a submission while all places of reads are taken: %d", got)
		}
		if got := status("GET", "/api/v1/rootCert"); got != http.StatusOK {
			t.Errorf("the API while all places of reads are taken: %d", got)
		}
		// A reader that reads a piece in time keeps its place; the other one does not.
		time.Sleep(stall - time.Second)
		if _, err := io.CopyN(io.Discard, readers[0], 2*piece); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if got := status("GET", "/ctlog/a/x"); got != http.StatusOK {
			t.Errorf("a read after a reader was cut off: %d", got)
		}
		if n, err := io.Copy(io.Discard, readers[0]); err != nil || n < 1<<20-2*piece {
			t.Errorf("a slow reader got %d bytes more: %v", n, err)
		}
		if logged := f.log.String(); !strings.Contains(logged, `"reason":"CANCELED"`) {
			t.Errorf("the access log does not say that an answer was cut off:\n%s", logged)
		}
		for _, c := range readers {
			_ = c.Close()
		}
		stop()
	})
}

// TestReadersTakeNoPlaceOfACertificate: a client that does not read the answer of an API holds no
// place while its answer waits.
func TestReadersTakeNoPlaceOfACertificate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.Limits.InFlight = 8 })
		chain := fakeChain(strings.Repeat("intermediate", 1<<12), "root") // more than net/http buffers
		f.bundle = func() []*ca.Chain { return []*ca.Chain{chain} }
		pipes, stop := f.servePipes(t)
		var readers []net.Conn
		for i := range 20 {
			readers = append(readers, pipes.get(t, "GET", []string{"/api/v2/trustBundle", "/api/v1/rootCert"}[i%2]))
		}
		synctest.Wait()
		if n := len(f.slots); n != 0 {
			t.Errorf("20 clients that do not read keep %d of 8 places", n)
		}
		// They still get complete answers, but only within a time limit.
		answer, err := io.ReadAll(readers[0])
		if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) || len(answer) < 12<<12 {
			t.Errorf("a slow reader got %d bytes: %v", len(answer), err)
		}
		time.Sleep(stall + time.Second)
		synctest.Wait()
		if answer, _ := io.ReadAll(readers[1]); len(answer) > 12<<12 {
			t.Error("a client that read nothing for a long time was not cut off")
		}
		for _, c := range readers {
			_ = c.Close()
		}
		stop()
	})
}

// TestSlowlorisIsCutOff sends half a header, and half a body, and waits.
func TestSlowlorisIsCutOff(t *testing.T) {
	t.Parallel()
	for sent, want := range map[string]time.Duration{
		"POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nX-Slow: ":                     readHeaderTimeout,
		"POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{": readTimeout,
	} {
		synctest.Test(t, func(t *testing.T) {
			pipes, stop := newFixture(t, nil).servePipes(t)
			begin := time.Now()
			client := pipes.open(t, sent)
			answer, _ := io.ReadAll(client)
			if took := time.Since(begin); took != want || want == readTimeout && !bytes.Contains(answer, []byte("REQUEST_MALFORMED")) {
				t.Errorf("after %v: %s", took, answer)
			}
			stop()
		})
	}
}
