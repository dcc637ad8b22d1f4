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

	"github.com/mayfly-ca/mayfly/internal/files"
)

// overflowID is the ID that Linux shows for every user or group of another user namespace
// (user_namespaces(7)).
const overflowID = 65534

// listen creates the socket at path with mode. checkFolder has ensured that no other user can
// replace the file, and the server admits only allowed users whatever its mode.
func listen(path string, mode fs.FileMode) (listener *net.UnixListener, file fs.FileInfo, err error) {
	if listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
		return nil, nil, err
	}
	listener.SetUnlinkOnClose(false) // stopListening first checks that the file is its own
	if err = os.Chmod(path, mode); err == nil {
		file, err = os.Lstat(path)
	}
	if err != nil {
		return nil, nil, errors.Join(err, listener.Close(), os.Remove(path))
	}
	return listener, file, nil
}

// checkFolder requires that no other user can replace the socket at path. A sticky folder is not
// enough: any user can then create the socket before the signer does.
func checkFolder(path string) error {
	folder := filepath.Dir(path)
	info, err := os.Stat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the folder %s of the socket does not exist; create it with mode 0750, for the signer's user and the server's group: any process that can connect can keep the server from it", folder)
	case err != nil:
		return fmt.Errorf("reading the mode of the socket's folder: %w", err)
	case !info.IsDir():
		return fmt.Errorf("%s, in which the socket is to be, is no folder", folder)
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

// lock locks path against other signers until files.Unlock, or until the process exits.
func lock(path string) (*os.File, error) {
	file, err := files.Lock(path+".lock", 0o600)
	switch {
	case errors.Is(err, files.ErrLocked):
		return nil, fmt.Errorf("another mayfly signer runs at %s; stop it first, or name another path", path)
	case err != nil:
		return nil, fmt.Errorf("%w; the folder and that file must belong to the signer's user", err)
	}
	return file, nil
}

// removeStale removes the socket that an earlier signer left at path. Its caller holds the lock of
// path, so that no signer listens there.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking for an older socket: %w", err)
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%s exists and is no socket; it stays: name another path, or move it away", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing the socket of an earlier signer: %w", err)
	}
	return nil
}
