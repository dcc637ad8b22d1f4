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

// staleTimeout bounds the wait for a socket that another process may use.
const staleTimeout = time.Second

// checkFolder requires that no other user can replace the socket at path. A sticky folder is not
// enough: any user can then create the socket before the signer does.
func checkFolder(path string) error {
	folder := filepath.Dir(path)
	info, err := os.Stat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the folder %s of the socket is not there; make it with mode 0750, belonging to the signer's user and the server's group: all who can reach the socket can keep the server from it", folder)
	case err != nil:
		return fmt.Errorf("asking for the mode of the socket's folder: %w", err)
	case !info.IsDir():
		return fmt.Errorf("%s, in which the socket is to be, is no folder", folder)
	}
	if own, owner := uint32(os.Geteuid()), ownerOf(info); owner != 0 && owner != own {
		return fmt.Errorf("the folder %s belongs to uid %d, who can put another socket in the place of this one; run: chown %d %[1]s", folder, owner, own)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("others than its owner may write to %s, whose mode is %04o, and so put another socket in the place of this one; run: chmod go-w %[1]s", folder, mode)
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

func another(path string) error {
	return fmt.Errorf("another mayfly signer runs at %s; stop it first, or name another path", path)
}

// lock locks path against other signers until unlock, or until the process exits. The file stays:
// if it were removed, one signer could lock it while another creates and locks a new one.
func lock(path string) (*os.File, error) {
	file, err := os.OpenFile(path+".lock", os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the path of the socket: %w; the folder and that file have to belong to the signer's user", err)
	}
	switch err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case err == nil:
		return file, nil
	case errors.Is(err, syscall.EWOULDBLOCK):
		err = another(path)
	default:
		err = fmt.Errorf("locking %s: %w", file.Name(), err)
	}
	return nil, errors.Join(err, file.Close())
}

// unlock releases the lock. Otherwise a child that has not reached its exec yet would keep it.
func unlock(file *os.File) error {
	return errors.Join(syscall.Flock(int(file.Fd()), syscall.LOCK_UN), file.Close())
}

// removeStale removes the file at path only if it is a socket without a listener. Its caller holds
// the lock of path. Programs other than mayfly signer do not take that lock.
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
		return another(path)
	case errors.Is(err, syscall.ECONNREFUSED):
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("removing the socket of one that has gone: %w", err)
		}
		return nil
	default:
		return fmt.Errorf("asking whether another mayfly signer runs at %s: %w", path, err)
	}
}
