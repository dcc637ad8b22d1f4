// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// listen creates a socket at path with mode, and returns its file's info. The mode is never wider:
// on Linux the file takes the mode of the socket less the umask, and widen adds the rest later.
// The umask, which all goroutines share, does not change.
func listen(path string, mode fs.FileMode) (*net.UnixListener, fs.FileInfo, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var chmod error
		err := raw.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), uint32(mode)) })
		return errors.Join(err, chmod)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, nil, err
	}
	listener, ok := l.(*net.UnixListener)
	if !ok {
		return nil, nil, errors.Join(fmt.Errorf("the listener is a %T", l), l.Close())
	}
	info, err := widen(path, mode)
	if err != nil {
		return nil, nil, errors.Join(err, listener.Close()) // this removes the file
	}
	listener.SetUnlinkOnClose(false) // stopListening first checks that the file is its own
	return listener, info, nil
}

// widen sets the mode of the socket at path if the umask has narrowed it. The descriptor ensures
// that only a socket gets the mode, even if another process replaces the file meanwhile.
func widen(path string, mode fs.FileMode) (fs.FileInfo, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("looking at the socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("asking for the socket's mode: %w", err)
	case info.Mode()&fs.ModeSocket == 0:
		return nil, errors.New("somebody has put something else in the place of the socket")
	case info.Mode().Perm() == mode:
		return info, nil
	}
	if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode); err != nil {
		return nil, fmt.Errorf("giving the socket its mode %04o: %w", mode, err)
	}
	return info, nil
}

// peerOf requests the process at the other end from the kernel (SO_PEERCRED, unix(7)).
func peerOf(c *net.UnixConn) (peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nobody(), err
	}
	var credentials *unix.Ucred
	var asking error
	err = raw.Control(func(fd uintptr) {
		credentials, asking = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, asking); err != nil {
		return nobody(), err
	}
	return peer{pid: credentials.Pid, uid: credentials.Uid, gid: credentials.Gid}, nil
}
