// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
)

// peer is the process at the other end, as the kernel recorded it at the connection. It is the
// remote address of requests.
type peer struct {
	pid      int32
	uid, gid uint32
}

// Network implements net.Addr.
func (peer) Network() string { return "unix" }

// String implements net.Addr.
func (p peer) String() string { return fmt.Sprintf("pid=%d uid=%d gid=%d", p.pid, p.uid, p.gid) }

// admitting is a listener that accepts only allowed peers, and only MaxConnections of them.
type admitting struct {
	*net.UnixListener
	s *Server
}

// Accept implements net.Listener.
func (a admitting) Accept() (net.Conn, error) {
	for {
		unix, err := a.AcceptUnix()
		if err != nil {
			return nil, err
		}
		c := &conn{UnixConn: unix, s: a.s}
		why := c.admit()
		if why == "" {
			return c, nil
		}
		a.s.cfg.Refused(RefusedConnection)
		a.s.log.Log(a.s.requests, slog.LevelWarn, why, slog.String("peer", c.peer.String()))
		_ = unix.Close()
	}
}

// conn is an accepted connection.
type conn struct {
	*net.UnixConn
	s      *Server
	peer   peer
	closed atomic.Bool
}

// admit returns why c is refused, or "".
func (c *conn) admit() string {
	var err error
	if c.peer, err = peerOf(c.UnixConn); err != nil {
		return "a process was refused at the signer's socket: the kernel does not state its user"
	}
	if c.peer.uid == overflowID || !slices.Contains(c.s.cfg.AllowUIDs, c.peer.uid) {
		return "a process was refused at the signer's socket: its user is not allowed"
	}
	if c.s.open.Add(1) > int64(c.s.cfg.MaxConnections) {
		c.s.open.Add(-1)
		return "a process was refused at the signer's socket, which has the maximum of connections"
	}
	return ""
}

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.peer }

// Close implements net.Conn.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.s.open.Add(-1)
	return c.UnixConn.Close()
}
