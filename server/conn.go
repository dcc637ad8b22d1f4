// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/internal/share"
)

// sendBuffer limits the bytes in the kernel of answers that a client does not read, otherwise 4 MiB.
const sendBuffer = 64 << 10

// listener gives each connection that it accepts a place before reading from it.
type listener struct {
	net.Listener
	conns   *connections
	proxies *proxyPeers     // nil without the PROXY protocol
	ctx     context.Context // ends when the listener is closed
	cancel  context.CancelFunc
	close   func() error // once
}

func newListener(l net.Listener, conns *connections, proxies *proxyPeers) *listener {
	ctx, cancel := context.WithCancel(context.Background())
	return &listener{l, conns, proxies, ctx, cancel, sync.OnceValue(l.Close)}
}

// Accept returns the next connection once there is a place for it. Until then new connections wait
// in the kernel.
func (l *listener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	for err == nil && !l.proxies.permit(raw) {
		raw, err = l.Listener.Accept()
	}
	if err != nil {
		return nil, err
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(sendBuffer) // fails only if the connection is closed
	}
	c := newConn(raw, l.conns)
	if l.proxies != nil {
		c.proxied = &proxied{proxyPeers: l.proxies}
	}
	descriptor := -1
	control(raw, func(fd uintptr) { descriptor = int(fd) })
	if !l.conns.enter(l.ctx, c, descriptor) {
		return nil, errors.Join(net.ErrClosed, raw.Close())
	}
	return c, nil
}

// Close stops accepting.
func (l *listener) Close() error {
	l.cancel()
	return l.close()
}

// conn is a connection with a place. Its stage follows from its fields, see (*conn).stage.
type conn struct {
	net.Conn
	conns    *connections
	remote   string        // the peer's address
	ended    chan struct{} // closed when the connection is closed
	received atomic.Bool   // bytes were read since the connection was accepted or became idle
	writing  atomic.Int64  // when the current write began, in ns; 0 without one
	streams  atomic.Int32  // HTTP/2 requests in progress
	own      atomic.Bool   // grpc-go's transport uses the connection, and it is not being dismissed
	writes   sync.Mutex    // held during a write
	proxied  *proxied      // nil without the PROXY protocol
	paused   atomic.Int64  // how long the next read waits, in ns

	// Guarded by conns.mu.
	client   *holder
	since    time.Time // when the connection began to wait for a request, or was spared
	requests int       // complete requests, until their answers begin
	answers  int       // answers that have begun and not finished
	served   int       // complete requests until now
	http2    bool      // the client speaks HTTP/2
	spared   bool      // was chosen for closing once, but a request was arriving
	closing  bool      // chosen to be closed, or closed
	outer    net.Conn  // what net/http serves: the conn, or TLS over it
}

func newConn(raw net.Conn, conns *connections) *conn {
	remote := raw.RemoteAddr().String()
	address, _ := parseHop(remote) // the zero address counts as an address, too
	own, _ := share.Networks(address)
	return &conn{Conn: raw, conns: conns, remote: remote, ended: make(chan struct{}), client: &holder{address: own}}
}

// transport notes that grpc-go's transport uses c, or TLS over it.
func (c *conn) transport(outer net.Conn) {
	c.conns.mu.Lock()
	defer c.conns.mu.Unlock()
	c.outer, c.http2 = outer, true
	c.own.Store(true)
}

// Close closes the connection and gives its place back.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.conns.leave(c)
	return err
}

// Read records that the client has sent something. While the client does not take what grpc-go's
// transport writes, nothing is read, or answers to what is read would fill the memory.
func (c *conn) Read(b []byte) (int, error) {
	if c.own.Load() && c.stuck(time.Millisecond) {
		c.await()
	}
	if pause := c.paused.Swap(0); pause > 0 {
		select {
		case <-time.After(time.Duration(pause)):
		case <-c.ended:
		}
	}
	n, err := c.readProxied(b)
	if n > 0 && !c.received.Load() {
		c.received.Store(true)
	}
	return n, err
}

// Write records when the current write began. grpc-go's transport sets no time limit for a write, and
// waits for its reader when one has failed.
func (c *conn) Write(b []byte) (int, error) {
	c.writes.Lock()
	defer c.writes.Unlock()
	now := time.Now()
	c.writing.Store(now.UnixNano())
	defer c.writing.Store(0)
	if !c.own.Load() {
		return c.Conn.Write(b)
	}
	_ = c.SetWriteDeadline(now.Add(c.conns.patience(c.conns.writers.Add(1))))
	defer c.conns.writers.Add(-1)
	if !c.own.Load() { // dismiss has begun, and its deadline may have been replaced
		_ = c.SetWriteDeadline(now.Add(lastWords))
	}
	n, err := c.Conn.Write(b)
	if err != nil {
		_ = c.Close()
	}
	return n, err
}

// await waits for the end of the current write.
func (c *conn) await() {
	c.writes.Lock()
	defer c.writes.Unlock()
}

// stuck reports whether the current write takes longer than patience.
func (c *conn) stuck(patience time.Duration) bool {
	since := c.writing.Load()
	return since != 0 && time.Now().UnixNano()-since > int64(patience)
}

// CloseWrite lets a client read a last answer; net/http calls it.
func (c *conn) CloseWrite() error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		return tcp.CloseWrite()
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
	c.conns.mu.Lock()
	defer c.conns.mu.Unlock()
	switch state {
	case http.StateNew:
		c.outer = served
	case http.StateIdle:
		// Only HTTP/2 is idle before a request, when its preface has been read.
		c.http2 = c.http2 || c.served == 0
		c.rest()
	case http.StateActive: // a request's header has been read
		c.rest()
	}
}

// connKey is the context key of a request's connection.
type connKey struct{}

func withConn(ctx context.Context, served net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, connOf(served))
}

// begin records that a request has been read completely. It returns false if the connection is
// being closed; then the request must have no effect.
func (c *conn) begin(http2 bool) bool {
	c.conns.mu.Lock()
	defer c.conns.mu.Unlock()
	if c.closing {
		return false
	}
	c.requests++
	c.served++
	c.http2 = http2
	return true
}

// count changes the numbers of requests and answers, when an answer begins or a handler returns.
func (c *conn) count(requests, answers int) {
	c.conns.mu.Lock()
	defer c.conns.mu.Unlock()
	c.requests += requests
	c.answers += answers
	c.rest()
}

// rest makes a connection idle from now on, unless it is busy or has not had a request yet. The
// caller holds mu.
func (c *conn) rest() {
	if c.closing || c.requests > 0 || c.served == 0 {
		return
	}
	c.since, c.spared = time.Now(), false
	c.received.Store(false)
	c.conns.signal()
}

// dismiss closes a connection that was chosen for closing. It sends a client of HTTP/2 a GOAWAY with
// the last stream that was answered, so that it can send later requests again (RFC 9113, section 6.8).
func (c *conn) dismiss(outer net.Conn, lastStream int) {
	c.own.Store(false)
	if lastStream >= 0 && !c.stuck(lastWords) && outer != nil {
		// The connection is idle, so the last bytes written end a frame.
		_ = c.SetWriteDeadline(time.Now().Add(lastWords))
		_, _ = outer.Write(goAway(lastStream))
	}
	_ = c.Close()
}

// lastStream returns the last HTTP/2 stream that was answered; -1 for HTTP/1.1, and during an answer,
// when a frame may be written in part. Streams are numbered 1, 3, 5 (RFC 9113, section 5.1.1). A
// client that skips numbers has also got all answers.
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

// control calls f with the file descriptor of a connection, if it has one.
func control(c net.Conn, f func(fd uintptr)) {
	if s, ok := c.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			_ = raw.Control(f)
		}
	}
}
