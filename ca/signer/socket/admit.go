// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
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
type admitting struct{ *Server }

// Addr implements net.Listener.
func (a admitting) Addr() net.Addr { return a.listener.Addr() }

// Close implements net.Listener. stopListening closes the listener before.
func (a admitting) Close() error { return nil }

// Accept implements net.Listener.
func (a admitting) Accept() (net.Conn, error) {
	for {
		unix, err := a.listener.AcceptUnix()
		if err != nil {
			return nil, err
		}
		c := &conn{UnixConn: unix}
		why := a.admit(c)
		if why == "" {
			return c, nil
		}
		a.cfg.Refused(RefusedConnection)
		a.log.Log(a.requests, slog.LevelWarn, why, slog.String("peer", c.peer.String()))
		_ = unix.Close()
	}
}

// admit returns why c is refused, or "".
func (a admitting) admit(c *conn) string {
	var err error
	if c.peer, err = peerOf(c.UnixConn); err != nil {
		return "a process was refused at the signer's socket: the kernel does not state its user"
	}
	if c.peer.uid == overflowID || !slices.Contains(a.cfg.AllowUIDs, c.peer.uid) {
		return "a process was refused at the signer's socket: its user is not allowed"
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.open) >= a.cfg.MaxConnections {
		return "a process was refused at the signer's socket, which has the maximum of connections"
	}
	a.open[c] = http.StateNew
	return ""
}

// conn is an accepted connection.
type conn struct {
	*net.UnixConn
	peer peer
	used bool // an octet has arrived
}

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.peer }

// Read implements net.Conn. It answers a client of version 1 in that version: its frames begin with
// a zero octet, which no request of HTTP does.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.UnixConn.Read(b)
	if n == 0 || c.used {
		return n, err
	}
	c.used = true
	if b[0] != 0 {
		return n, err
	}
	text := "mayfly signer is of a later release; run the same release on both sides"
	frame := binary.BigEndian.AppendUint32(nil, uint32(12+len(text)))
	frame = append(frame, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) // version 1, status malformed
	_, err = c.Write(append(frame, text...))
	return 0, errors.Join(errors.New("the client has version 1 of the protocol"), err, c.Close())
}
