// SPDX-License-Identifier: Apache-2.0

package server

import (
	"container/list"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/internal/share"
)

// sendBuffer limits the bytes in the kernel of answers that a client does not read. Without this
// limit the kernel holds up to 4 MiB for each connection.
const sendBuffer = 64 << 10

// listener gives each connection that it accepts a place before reading from it.
type listener struct {
	net.Listener
	conns    *connections
	stopping <-chan struct{} // closed once shutdown has begun
	closed   atomic.Bool
}

// Accept returns the next connection once there is a place for it. Until then new connections wait
// in the kernel.
func (l *listener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	remote, _ := parseHop(raw.RemoteAddr().String()) // the zero address counts as an address, too
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(sendBuffer) // fails only if the connection is closed
	}
	c := &conn{Conn: raw, conns: l.conns, stage: busy, ended: make(chan struct{})}
	c.address, _ = share.Networks(remote)
	select {
	case <-l.stopping:
		c.late = true
	default:
	}
	if !l.conns.enter(c, descriptorOf(raw), l.closed.Load) {
		return nil, errors.Join(net.ErrClosed, raw.Close())
	}
	return c, nil
}

// Close stops accepting.
func (l *listener) Close() error {
	l.closed.Store(true)
	l.conns.mu.Lock()
	l.conns.changed.Broadcast()
	l.conns.mu.Unlock()
	return l.Listener.Close()
}

// conn is a connection with a place.
type conn struct {
	net.Conn
	conns    *connections
	address  netip.Prefix
	late     bool         // accepted after shutdown had begun
	received atomic.Bool  // bytes were read since the connection was accepted or became idle
	writing  atomic.Int64 // when the current write began, in ns; 0 without one
	streams  atomic.Int32 // HTTP/2 requests in progress
	end      sync.Once
	ended    chan struct{} // closed when the connection is closed

	// Guarded by conns.mu.
	holder           *holder // nil after the place was given back
	stage            int
	since            time.Time
	inStage, inGroup *list.Element
	requests         int      // complete requests, until they are answered
	answers          int      // answers that have begun and not finished
	served           int      // complete requests until now
	http2            bool     // the client speaks HTTP/2
	spared           bool     // was chosen for closing once, but a request was arriving
	closing          bool     // chosen to be closed, or closed
	outer            net.Conn // what net/http serves: c, or TLS over it
}

// Close closes the connection and gives its place back.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.end.Do(func() { close(c.ended) })
	c.conns.leave(c)
	return err
}

// Read records that the client has sent something.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.received.Load() {
		c.received.Store(true)
	}
	return n, err
}

// Write records when the current write began.
func (c *conn) Write(b []byte) (int, error) {
	c.writing.Store(time.Now().UnixNano())
	defer c.writing.Store(0)
	return c.Conn.Write(b)
}

// CloseWrite lets a client read a last answer; net/http calls it.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// connOf returns the conn below the connection that net/http serves; nil if it has no place.
func connOf(served net.Conn) *conn {
	if t, ok := served.(*tls.Conn); ok {
		served = t.NetConn()
	}
	c, _ := served.(*conn)
	return c
}

// connState is the http.Server's hook.
func connState(served net.Conn, state http.ConnState) {
	c := connOf(served)
	if c == nil {
		return
	}
	p := c.conns
	p.mu.Lock()
	defer p.mu.Unlock()
	switch state {
	case http.StateNew:
		c.outer = served
	case http.StateIdle:
		// Only HTTP/2 is idle before a request, when its preface has been read.
		c.http2 = c.http2 || c.served == 0
		p.rest(c)
	case http.StateActive: // a request's header has been read
		p.rest(c)
	}
}

// connKey is the context key of a request's connection.
type connKey struct{}

func withConn(ctx context.Context, served net.Conn) context.Context {
	if c := connOf(served); c != nil {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

// keepBusy keeps a connection open while h answers a request on it. It does so from the last byte
// of the request's body to the first byte of the answer, which may wait for its client.
func keepBusy(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := r.Context().Value(connKey{}).(*conn)
		if c == nil {
			h.ServeHTTP(w, r)
			return
		}
		body := &requestBody{ReadCloser: r.Body, conn: c, http2: r.ProtoMajor == 2}
		busy := &busyWriter{ResponseWriter: w, body: body}
		// An answer to an incomplete request, such as a refusal, counts too.
		defer func() {
			if body.begun || body.complete() {
				c.conns.end(c, busy.answers)
			}
		}()
		if r.ContentLength == 0 {
			body.mustComplete()
		} else {
			r.Body = body
		}
		h.ServeHTTP(busy, r)
	})
}

// busyWriter records when an answer begins.
type busyWriter struct {
	http.ResponseWriter
	body    *requestBody
	stays   bool // the connection stays busy until the end of the answer
	answers bool // the answer has begun, so it no longer keeps the connection busy
}

// stayBusy keeps a connection open until the end of an answer. It is for answers of which few are
// in progress at a time.
func stayBusy(w http.ResponseWriter) {
	if b, ok := w.(*busyWriter); ok {
		b.stays = true
	}
}

// WriteHeader, Write and Flush are those of the ResponseWriter.
func (b *busyWriter) WriteHeader(status int) {
	if status >= http.StatusOK {
		b.begin()
	}
	b.ResponseWriter.WriteHeader(status)
}
func (b *busyWriter) Write(p []byte) (int, error) {
	b.begin()
	return b.ResponseWriter.Write(p)
}
func (b *busyWriter) Flush() {
	b.begin()
	_ = http.NewResponseController(b.ResponseWriter).Flush() // fails only without a connection
}

// Unwrap is for http.ResponseController.
func (b *busyWriter) Unwrap() http.ResponseWriter { return b.ResponseWriter }

func (b *busyWriter) begin() {
	if !b.answers && !b.stays && b.body.begun {
		b.answers = true
		b.body.conn.conns.answer(b.body.conn)
	}
}

// requestBody records when a request has been read completely.
type requestBody struct {
	io.ReadCloser
	conn  *conn
	http2 bool
	begun bool
}

// Read aborts the handler if the connection is being closed before the end of the body.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF && !b.begun {
		b.mustComplete()
	}
	if err != nil && !b.begun && b.conn.conns.gone(b.conn) {
		b.abort() // an incomplete request is not answered
	}
	return n, err
}

func (b *requestBody) complete() bool {
	b.begun = b.conn.conns.begin(b.conn, b.http2)
	return b.begun
}

// mustComplete aborts the handler if the connection is being closed. The client gets no answer, and
// its request has had no effect.
func (b *requestBody) mustComplete() {
	if !b.complete() {
		b.abort()
	}
}

// abort aborts the handler once the connection is closed. Otherwise net/http would reset the stream
// before the GOAWAY that permits the client to send the request again.
func (b *requestBody) abort() {
	<-b.conn.ended
	panic(http.ErrAbortHandler)
}

// dismiss closes a connection that was chosen for closing. It sends a client of HTTP/2 a GOAWAY
// with the last stream that was answered. The client can then send later requests again over
// another connection (RFC 9113, section 6.8).
func (c *conn) dismiss(outer net.Conn, lastStream int) {
	const patience = 10 * time.Millisecond
	since := c.writing.Load()
	stuck := since != 0 && time.Now().UnixNano()-since > int64(patience)
	if lastStream >= 0 && !stuck && outer != nil {
		// The connection is idle, so the last bytes written end a frame.
		_ = c.SetWriteDeadline(time.Now().Add(patience))
		_, _ = outer.Write(goAway(lastStream))
	}
	_ = c.Close()
}

// lastStream returns the last HTTP/2 stream that was answered. It returns -1 for HTTP/1.1, and
// during an answer, when a frame may be written in part. A client numbers its streams 1, 3, 5 (RFC
// 9113, section 5.1.1). A client that skips numbers has also got all answers.
func (c *conn) lastStream() int {
	if !c.http2 || c.answers > 0 {
		return -1
	}
	return max(2*c.served-1, 0)
}

// goAway returns a GOAWAY frame with NO_ERROR (RFC 9113, section 6.8).
func goAway(lastStream int) []byte {
	const length, kind = 8, 7
	frame := []byte{0, 0, length, kind, 0, 0, 0, 0, 0}
	frame = binary.BigEndian.AppendUint32(frame, uint32(lastStream)&(1<<31-1))
	return binary.BigEndian.AppendUint32(frame, 0)
}

// unread reports whether the kernel holds bytes from the client that are not read yet.
func (c *conn) unread() (yes bool) {
	control(c.Conn, func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		yes = err == nil && n > 0
	})
	return yes
}

// descriptorOf returns the number of a connection's file descriptor, or -1.
func descriptorOf(c net.Conn) int {
	number := -1
	control(c, func(fd uintptr) { number = int(fd) })
	return number
}

func control(c net.Conn, f func(fd uintptr)) {
	if s, ok := c.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			_ = raw.Control(f)
		}
	}
}
