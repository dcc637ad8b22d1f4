// SPDX-License-Identifier: Apache-2.0

package siege

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const frameSize = 16 << 10 // of HTTP/2

// attacker opens connections from an address of its own and holds them.
type attacker struct {
	from net.IP
	mu   sync.Mutex
	open map[net.Conn]bool
}

func newAttacker(s *server, from string) *attacker {
	a := &attacker{from: net.ParseIP(from), open: make(map[net.Conn]bool)}
	s.t.Cleanup(a.close)
	return a
}

// connect opens a connection with a small receive buffer, and sends first. It returns nil if the
// server does not accept the connection.
func (a *attacker) connect(address string, first []byte) net.Conn {
	dialer := &net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: a.from}, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 2048) }), err)
	}}
	conn, err := dialer.Dial("tcp", address)
	if err != nil {
		return nil
	}
	_ = conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
	if _, err := conn.Write(first); err != nil {
		_ = conn.Close()
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[conn] = true
	return conn
}

// burst opens n connections, 100 at a time, each with the next of the beginnings.
func (a *attacker) burst(n int, addresses []string, beginnings ...[]byte) (opened int) {
	var running sync.WaitGroup
	var mu sync.Mutex
	places := make(chan struct{}, 100)
	for i := range n {
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places }()
			if a.connect(addresses[i%len(addresses)], beginnings[i%len(beginnings)]) != nil {
				mu.Lock()
				defer mu.Unlock()
				opened++
			}
		})
	}
	running.Wait()
	return opened
}

// prune removes the connections that the server has closed, and returns their number.
func (a *attacker) prune() (closed int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for conn := range a.open {
		if closedByPeer(conn) {
			_ = conn.Close()
			delete(a.open, conn)
			closed++
		}
	}
	return closed
}

// closedByPeer reports whether the connection has ended; it consumes no data.
func closedByPeer(conn net.Conn) (ended bool) {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		ended = err == nil && n == 0 || err != nil && !errors.Is(err, syscall.EAGAIN)
	})
	return ended || err != nil
}

func (a *attacker) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for conn := range a.open {
		_ = conn.Close()
	}
	clear(a.open)
}

// streams is the beginning of an HTTP/2 connection with n requests, and windows of the given size
// for their answers. Each body has the given number of bytes. The body is incomplete unless it has
// 0 or 5 bytes, which is an empty message of gRPC.
func streams(n int, window uint32, body int, fields ...string) []byte {
	var out bytes.Buffer
	out.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&out, nil)
	_ = framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	for i := range uint32(n) {
		var block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		encoder.SetMaxDynamicTableSizeLimit(0) // each block is complete by itself
		for f := 0; f < len(fields); f += 2 {
			_ = encoder.WriteField(hpack.HeaderField{Name: fields[f], Value: fields[f+1]})
		}
		id := 2*i + 1
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: body == 0})
		for rest := body; rest > 0; rest -= frameSize {
			_ = framer.WriteData(id, body == 5, make([]byte, min(rest, frameSize)))
		}
	}
	return out.Bytes()
}

// wide opens the window of an HTTP/2 connection, so that only TCP delays answers.
func wide() []byte {
	var out bytes.Buffer
	_ = http2.NewFramer(&out, nil).WriteWindowUpdate(0, 1<<30)
	return out.Bytes()
}

// read reads from a connection until it ends, and answers pings and settings as any client does.
func read(ctx context.Context, conn net.Conn) {
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	framer := http2.NewFramer(conn, conn)
	for {
		frame, err := framer.ReadFrame()
		if err != nil && !errors.As(err, new(http2.StreamError)) {
			_, _ = io.Copy(io.Discard, conn)
			return
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = framer.WritePing(true, f.Data)
			}
		}
	}
}
