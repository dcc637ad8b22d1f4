// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// peerOf returns the process at the other end, from the kernel (SO_PEERCRED, unix(7)).
func peerOf(c *net.UnixConn) (peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var credentials *unix.Ucred
	var failure error
	err = raw.Control(func(fd uintptr) {
		credentials, failure = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, failure); err != nil {
		return peer{}, err
	}
	return peer{pid: credentials.Pid, uid: credentials.Uid, gid: credentials.Gid}, nil
}
