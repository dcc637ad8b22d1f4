// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package socket

import (
	"errors"
	"io/fs"
	"net"
)

var errLinuxOnly = errors.New("mayfly signer runs on Linux only: on other systems it could not tell who asks for a signature")

func listen(string, fs.FileMode) (*net.UnixListener, fs.FileInfo, error) {
	return nil, nil, errLinuxOnly
}

func peerOf(*net.UnixConn) (peer, error) { return nobody(), errLinuxOnly }
