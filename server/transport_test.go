// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// ownClient is an HTTP/2 client of gRPC's own port. It reads everything, and grants no window unless it
// is asked to. Its writes do not wait for the server.
type ownClient struct {
	*http2.Framer
	conn  net.Conn
	out   chan []byte
	begun time.Time
	ended chan struct{} // closed when the server has closed the connection

	refused atomic.Int32 // streams

	// The rest is the reader's until ended.
	took   time.Duration // until ended
	goAway bool

	mu      sync.Mutex
	answers map[uint32]codes.Code // by stream; guarded by mu
}

func (c *ownClient) Write(p []byte) (int, error) {
	c.out <- bytes.Clone(p)
	return len(p), nil
}

// dialOwn opens a connection; window is that of each answer.
func dialOwn(t *testing.T, pipes pipeListener, window uint32) *ownClient {
	t.Helper()
	near, far := net.Pipe()
	pipes <- far
	c := &ownClient{conn: near, out: make(chan []byte, 1000), begun: time.Now(), ended: make(chan struct{}), answers: make(map[uint32]codes.Code)}
	c.Framer = http2.NewFramer(c, near)
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	done := make(chan struct{})
	t.Cleanup(func() { close(done); _ = near.Close() })
	go func() {
		for {
			select {
			case p := <-c.out:
				_, _ = near.Write(p)
			case <-done:
				return
			}
		}
	}()
	go c.read()
	_, _ = io.WriteString(c, http2.ClientPreface)
	if err := c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *ownClient) read() {
	defer close(c.ended)
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			c.took = time.Since(c.begun)
			return
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, field := range f.Fields {
				if field.Name == "grpc-status" {
					code, _ := strconv.Atoi(field.Value)
					c.mu.Lock()
					c.answers[f.StreamID] = codes.Code(code)
					c.mu.Unlock()
				}
			}
		case *http2.RSTStreamFrame:
			if f.ErrCode == http2.ErrCodeRefusedStream {
				c.refused.Add(1)
			}
		case *http2.GoAwayFrame:
			c.goAway = true
		}
	}
}

// call sends a request with a body; end states whether it is complete.
func (c *ownClient) call(t *testing.T, stream uint32, path, body string, end bool) {
	t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encoder.SetMaxDynamicTableSizeLimit(0)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":authority", "ca.example"}, {":path", path}, {"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	for len(body) > piece/2 {
		_ = c.WriteData(stream, false, []byte(body[:piece/2]))
		body = body[piece/2:]
	}
	if err := c.WriteData(stream, end, []byte(body)); err != nil {
		t.Fatal(err)
	}
}

// got returns the answers until now, when all that was sent has been read.
func (c *ownClient) got() map[uint32]codes.Code {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.answers)
}

// serveOwn serves gRPC on pipes of its own.
func (f *fixture) serveOwn(t *testing.T) (pipes pipeListener, stop func()) {
	rest, pipes := make(pipeListener), make(pipeListener)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Serve(ctx, Listeners{HTTP: rest, GRPC: pipes}) }()
	return pipes, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestOwnPortBoundsRequests: on gRPC's own port as well, the limit applies to all connections
// together, while answers wait for a window too. Clients that grant none lose their connections.
func TestOwnPortBoundsRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.Limits.InFlight = 10 }) // 30 requests, 15 for one client
		pipes, stop := f.serveOwn(t)
		var clients []*ownClient
		waiting, refused := 0, 0
		for range 3 {
			c := dialOwn(t, pipes, 0)
			for i := range uint32(10) {
				c.call(t, 2*i+1, healthpb.Health_Check_FullMethodName, framed(0, 0, ""), true)
			}
			got := c.got() // refusals need no window
			waiting, refused = waiting+10-len(got), refused+len(got)
			clients = append(clients, c)
		}
		if waiting != 3+15 || refused != 12 { // one for each connection
			t.Errorf("of 30 requests without a window, %d wait and %d were refused", waiting, refused)
		}
		time.Sleep(stall + time.Second)
		synctest.Wait()
		for i, c := range clients {
			if <-c.ended; c.took != stall {
				t.Errorf("client %d, which grants no window, lost its connection after %v, want %v", i, c.took, stall)
			}
		}
		f.mustBeFree(t, 15)
		const counted = `mayfly_requests_total{api="grpc",method="unknown",reason="OVERLOADED"} 12`
		if got := f.metric(t, "mayfly_requests_total"); strings.TrimSpace(got) != counted {
			t.Errorf("counted %s, want %s", got, counted)
		}
		stop()
	})
}

// TestOwnPortStreams: a connection has few requests in progress; one more is reset, and may be sent again.
func TestOwnPortStreams(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, nil)
		pipes, stop := f.serveOwn(t)
		c := dialOwn(t, pipes, 1<<16)
		for i := range uint32(ownStreams + 1) {
			c.call(t, 2*i+1, createPath, "", false)
		}
		if synctest.Wait(); c.refused.Load() != 1 {
			t.Errorf("%d of %d streams were refused, want 1", c.refused.Load(), ownStreams+1)
		}
		_ = c.conn.Close()
		stop()
	})
}

// mustBeFree checks that a client gets n places for requests.
func (f *fixture) mustBeFree(t *testing.T, n int) {
	t.Helper()
	client, _ := parseHop("192.0.2.1")
	for i := range n {
		if !f.handlers.Take(client, time.Time{}) {
			t.Fatalf("only %d places are free, want %d", i, n)
		}
		defer f.handlers.Give(client)
	}
	if open, _ := f.conns.count(); open != 0 {
		t.Errorf("%d connections are open", open)
	}
}

// TestOwnPortGivesUpOnSlowRequests: a client that sends its request slowly is answered in time, and one
// that sends nothing loses its connection.
func TestOwnPortGivesUpOnSlowRequests(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		path, body string
		want       codes.Code
		within     time.Duration
	}{
		"no body":                   {createPath, "", codes.InvalidArgument, readTimeout},
		"half a prefix":             {createPath, "\x00\x00", codes.InvalidArgument, readTimeout},
		"half a message":            {createPath, framed(0, 100, "x"), codes.InvalidArgument, readTimeout},
		"a message without an end":  {createPath, framed(0, 0, ""), codes.InvalidArgument, readTimeout},
		"no body for a watch":       {healthpb.Health_Watch_FullMethodName, "", codes.InvalidArgument, readTimeout},
		"too much":                  {createPath, framed(0, maxBody+1, strings.Repeat("x", maxBody-framePrefix)), codes.InvalidArgument, 0},
		"an unknown method, slowly": {"/a.b/C", "", codes.Unimplemented, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, nil)
				pipes, stop := f.serveOwn(t)
				c := dialOwn(t, pipes, 1<<16)
				c.call(t, 1, tt.path, tt.body, false)
				time.Sleep(tt.within - min(tt.within, time.Millisecond))
				if got := c.got(); tt.within > 0 && len(got) != 0 {
					t.Errorf("answered early: %v", got)
				}
				time.Sleep(2 * time.Millisecond)
				if got := c.got(); got[1] != tt.want || len(got) != 1 {
					t.Errorf("the answer is %v, want %v", got, tt.want)
				}
				_ = c.conn.Close()
				stop()
			})
		})
	}
}

// TestOwnPortHandshakeHasADeadline: a connection on which no preface arrives is closed.
func TestOwnPortHandshakeHasADeadline(t *testing.T) {
	t.Parallel()
	for _, sent := range []string{"", "PRI * HTTP/2", http2.ClientPreface} {
		synctest.Test(t, func(t *testing.T) {
			pipes, stop := newFixture(t, nil).serveOwn(t)
			near, far := net.Pipe()
			pipes <- far
			begin := time.Now()
			go func() { _, _ = io.WriteString(near, sent) }()
			if _, _ = io.Copy(io.Discard, near); time.Since(begin) != readHeaderTimeout {
				t.Errorf("closed after %v, want %v", time.Since(begin), readHeaderTimeout)
			}
			stop()
		})
	}
}

// TestOwnPortClosesIdleConnections: a connection is closed, with GOAWAY, when it has been idle.
func TestOwnPortClosesIdleConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.Limits.Idle = time.Minute })
		pipes, stop := f.serveOwn(t)
		c := dialOwn(t, pipes, 1<<16)
		<-c.ended
		if !c.goAway || c.took < time.Minute || c.took > time.Minute+10*time.Second {
			t.Errorf("GOAWAY %t, after %v", c.goAway, c.took)
		}
		stop()
	})
}

// TestOwnPortClosesUnreadConnections: a client that takes no byte loses its connection, and the sooner,
// the more clients take none.
func TestOwnPortClosesUnreadConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, nil)
		pipes, stop := f.serveOwn(t)
		near, far := net.Pipe()
		pipes <- far
		begin := time.Now()
		settings := make([]byte, 1)
		_, _ = near.Read(settings)
		go func() {
			var out bytes.Buffer
			framer := http2.NewFramer(&out, nil)
			_ = framer.WriteSettings()
			_, _ = io.WriteString(near, http2.ClientPreface+out.String()) // its acknowledgement is not read
		}()
		for open := 1; open > 0 && time.Since(begin) < time.Minute; open, _ = f.conns.count() {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(begin); took > readHeaderTimeout+100*time.Millisecond {
			t.Errorf("closed after %v", took)
		}
		_ = near.Close()
		stop()
	})
	p := newConnections(0, 0, nil)
	if p.patience(1) < 4*time.Second || p.patience(2048) > 50*time.Millisecond {
		t.Errorf("patience is %v and %v", p.patience(1), p.patience(2048))
	}
}

// TestOwnPortLargeMessagesHaveFewPlaces: few clients send large messages at a time.
func TestOwnPortLargeMessagesHaveFewPlaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.Limits.InFlight = 16 }) // two places, one for a client
		pipes, stop := f.serveOwn(t)
		c := dialOwn(t, pipes, 1<<16)
		large := framed(0, 40_000, strings.Repeat("x", 40_000))
		c.call(t, 1, createPath, large[:20_000], false)
		synctest.Wait()
		c.call(t, 3, createPath, large, true)
		c.call(t, 5, createPath, large[:5]+large[:ordinaryBody], true) // its length is wrong
		c.call(t, 7, createPath, framed(0, 0, ""), true)
		if got := c.got(); got[3] != codes.ResourceExhausted || got[5] != codes.ResourceExhausted || got[7] != codes.Unauthenticated {
			t.Errorf("two without a place, and an ordinary one: %v", got)
		}
		time.Sleep(readTimeout + time.Second)
		c.call(t, 9, createPath, large, true)
		if got := c.got(); got[1] != codes.InvalidArgument || got[9] != codes.Unauthenticated || len(got) != 5 {
			t.Errorf("the slow one, and one after it: %v", got)
		}
		_ = c.conn.Close()
		stop()
	})
}

// TestOwnPortSurvivesPanics: a panic in any method is INTERNAL, and the process lives on.
func TestOwnPortSurvivesPanics(t *testing.T) {
	t.Parallel()
	run := serve(t, false, false, func(c *Config) {
		c.TrustBundle = func() []*ca.Chain { panic("bundle") }
		c.Checks = []Check{{Name: "ct-log", Critical: true, Probe: func(context.Context) (string, error) { panic("probe") }}}
	})
	client := fulciov2.NewCAClient(run.dial(t, "127.0.0.1"))
	for range 2 {
		if _, err := client.GetTrustBundle(t.Context(), &fulciov2.GetTrustBundleRequest{}); status.Code(err) != codes.Internal {
			t.Errorf("got %v", err)
		}
	}
	if err := run.create(t); err != nil {
		t.Error(err)
	}
}

// TestOwnPortRecordsResets: a client cannot avoid a line of the access log by a reset.
func TestOwnPortRecordsResets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, nil)
		pipes, stop := f.serveOwn(t)
		c := dialOwn(t, pipes, 1<<16)
		synctest.Wait()
		const resets = 50
		for i := range uint32(resets) {
			c.call(t, 2*i+1, createPath, "", false)
			_ = c.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
			synctest.Wait()
		}
		if lines := strings.Count(f.log.String(), `"msg":"request"`); lines != resets {
			t.Errorf("%d of %d requests have a line", lines, resets)
		}
		_ = c.conn.Close()
		stop()
	})
}

// TestOwnPortReadsBelowTheAPI: readMessage calls methods of grpc-go's transport that are not part of its
// API. A version of grpc-go without them fails here, with their names.
func TestOwnPortReadsBelowTheAPI(t *testing.T) {
	t.Parallel()
	run := serve(t, false, false, nil)
	if err := run.create(t); err != nil {
		t.Errorf("reading a message over grpc-go's transport: %v; does this version of grpc-go still have the methods that readMessage calls?\n%s", err, run.log.String())
	}
}
