// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/mayfly-ca/mayfly/internal/files"
)

// overflowID is the ID that Linux shows for every user or group of another user namespace
// (user_namespaces(7)).
const overflowID = 65534

// listen creates the socket at path with mode, and locks path against other signers until
// files.Unlock, or until the process exits. checkFolder has ensured that no other user can replace
// the socket, and the server admits only allowed users whatever its mode.
func listen(path string, mode fs.FileMode) (listener *net.UnixListener, socket fs.FileInfo, lock *os.File, err error) {
	lock, err = files.Lock(path+".lock", 0o600)
	switch {
	case errors.Is(err, files.ErrLocked):
		return nil, nil, nil, fmt.Errorf("another mayfly signer runs at %s; stop it first, or name another path", path)
	case err != nil:
		return nil, nil, nil, fmt.Errorf("%w; the folder and that file must belong to the signer's user", err)
	}
	if old, err := os.Lstat(path); err == nil && old.Mode()&fs.ModeSocket == 0 {
		return nil, nil, nil, errors.Join(fmt.Errorf("%s exists and is no socket; it stays: name another path, or move it away", path), files.Unlock(lock))
	}
	_ = os.Remove(path) // the socket of an earlier signer, which the lock shows to have stopped
	if listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err == nil {
		listener.SetUnlinkOnClose(false) // stopListening first checks that the socket is its own
		if err = os.Chmod(path, mode); err == nil {
			socket, err = os.Lstat(path)
		}
		if err != nil {
			err = errors.Join(err, listener.Close(), os.Remove(path))
		}
	}
	if err != nil {
		return nil, nil, nil, errors.Join(fmt.Errorf("creating the socket: %w", err), files.Unlock(lock))
	}
	return listener, socket, lock, nil
}

// checkFolder requires that no other user can replace the socket at path. A sticky folder is not
// enough: any user can then create the socket before the signer does. checkFolder creates the folder if
// only that is missing, such as in an emptyDir of Kubernetes, to which every user may write.
func checkFolder(path string) error {
	folder := filepath.Dir(path)
	_ = os.Mkdir(folder, 0o750) // Stat reports a folder that is still missing
	info, err := os.Stat(folder)
	if err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return fmt.Errorf("the folder of the socket: %w; create %s with mode 0750, for the signer's user and the server's group: any process that can connect can keep the server from it", err, folder)
	}
	if own, owner := uint32(os.Geteuid()), ownerOf(info); owner != 0 && owner != own {
		return fmt.Errorf("the folder %s belongs to uid %d, which can replace the socket; run: chown %d %[1]s", folder, owner, own)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("users other than its owner may write to %s, whose mode is %04o, and can replace the socket; use a folder that only its owner may write to, such as /run/mayfly", folder, mode)
	}
	return nil
}

// ownerOf returns the user that owns the file of info.
func ownerOf(info fs.FileInfo) uint32 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Uid
	}
	return overflowID
}

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
		c, err := a.AcceptUnix()
		if err != nil {
			return nil, err
		}
		p, err := peerOf(c)
		why := "its user is not allowed"
		if err == nil && p.uid != overflowID && slices.Contains(a.s.cfg.AllowUIDs, p.uid) {
			if a.s.open.Add(1) <= int64(a.s.cfg.MaxConnections) {
				return conn{c, p, sync.OnceFunc(func() { a.s.open.Add(-1) })}, nil
			}
			a.s.open.Add(-1)
			why = "the socket has the maximum of connections"
		}
		a.s.cfg.Refused(RefusedConnection)
		a.s.log.Log(a.s.requests, slog.LevelWarn, "a process was refused at the signer's socket: "+why, slog.String("peer", p.String()))
		_ = c.Close()
	}
}

// conn is an accepted connection.
type conn struct {
	*net.UnixConn
	peer    peer
	release func()
}

// RemoteAddr implements net.Conn.
func (c conn) RemoteAddr() net.Addr { return c.peer }

// Close implements net.Conn.
func (c conn) Close() error {
	c.release()
	return c.UnixConn.Close()
}
