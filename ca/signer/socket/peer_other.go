// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package socket

import (
	"errors"
	"net"
)

func peerOf(*net.UnixConn) (peer, error) {
	return peer{}, errors.New("mayfly signer runs on Linux only: on other systems it cannot check the user of a caller")
}
