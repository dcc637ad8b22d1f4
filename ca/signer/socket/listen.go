// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// staleTimeout bounds the wait for a socket that may be somebody's.
const staleTimeout = time.Second

// checkFolder demands that nobody else can put another socket in path's place.
func checkFolder(path string) error {
	folder := filepath.Dir(path)
	info, err := os.Stat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the folder %s of the socket is not there; make it, owned by the signer's user and with mode 0755", folder)
	case err != nil:
		return fmt.Errorf("asking for the mode of the socket's folder: %w", err)
	case !info.IsDir():
		return fmt.Errorf("%s, in which the socket is to be, is no folder", folder)
	case info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0:
		return fmt.Errorf("everybody may write to %s, and so put another socket in the place of this one; run: chmod o-w %[1]s", folder)
	}
	return nil
}

// removeStale removes a socket at path on which nobody listens, and nothing else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking for an older socket: %w", err)
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s is there, and is no socket; it stays: name another path, or move it away", path)
	}
	c, err := net.DialTimeout("unix", path, staleTimeout)
	switch {
	case err == nil:
		_ = c.Close()
		return fmt.Errorf("another mayfly signer runs at %s; stop it first, or name another path", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("removing the socket of one that has gone: %w", err)
		}
		return nil
	default:
		return fmt.Errorf("asking whether another mayfly signer runs at %s: %w", path, err)
	}
}
