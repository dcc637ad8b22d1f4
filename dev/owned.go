// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ownDir creates dir if it is missing, and checks it. Only this process's user, and root, can
// change its content or which directory its name means, and no link leads out of it. Later writes
// below dir, also by libraries, then follow no link of another user. The check precedes every other
// access, since a name that another user chose may block or lead elsewhere. It returns dir without
// symbolic links.
func ownDir(dir string) (string, error) {
	err := checkPath(dir, maxLinks)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(dir, 0o700); err == nil {
			err = checkPath(dir, maxLinks)
		}
	}
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err == nil { // a target with ".." after a link of its own leads elsewhere than its text
		err = checkPath(dir, 0)
	}
	if err == nil {
		err = checkTree(dir)
	}
	if err != nil {
		return "", fmt.Errorf("checking the directory of the development world: %w", err)
	}
	return dir, nil
}

// checkTree checks dir and, if it is a development world's, everything in it.
func checkTree(dir string) error {
	_, err := os.Lstat(filepath.Join(dir, markerFile))
	inside, private := !errors.Is(err, fs.ErrNotExist), false
	type inode struct{ device, number uint64 }
	links := make(map[inode]uint64) // how many names of a file are outside of dir
	names := make(map[inode]string)
	err = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = entry.Info()
		}
		if errors.Is(err, fs.ErrNotExist) && name != dir {
			return nil // another mayfly dev renames its files: the lock will report it
		}
		if err == nil {
			err = checkOwner(name, info)
		}
		if err == nil && !private && writableByOthers(info) {
			err = fmt.Errorf("%s has mode %04o, so that other users can change it: name a directory of your own with --dir, or run chmod go-w on it if no other user has used it", name, info.Mode().Perm())
		}
		if err != nil {
			return err
		}
		if name == dir { // the umask decides the mode of files in a directory that others cannot enter
			private = info.Mode().Perm()&0o077 == 0
		}
		if !inside {
			return fs.SkipAll // claimDir refuses it unless it is empty
		}
		if stat := info.Sys().(*syscall.Stat_t); !info.IsDir() {
			file := inode{uint64(stat.Dev), stat.Ino}
			if _, seen := links[file]; !seen {
				links[file], names[file] = uint64(stat.Nlink), name
			}
			links[file]--
		}
		return nil
	})
	for file, outside := range links {
		if err == nil && outside > 0 {
			return fmt.Errorf("%s has another name outside of %s (a hard link), and both would be written: name another directory with --dir", names[file], dir)
		}
	}
	return err
}

// checkOwner checks that name is a file or a directory of this process's user.
func checkOwner(name string, info fs.FileInfo) error {
	owner := info.Sys().(*syscall.Stat_t).Uid
	switch {
	case !info.IsDir() && !info.Mode().IsRegular():
		return fmt.Errorf("%s is neither a file nor a directory (%s), and mayfly dev creates no such thing: name another directory with --dir", name, info.Mode().Type())
	case int(owner) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d, and this process runs as user %d: name a directory of your own with --dir", name, owner, os.Geteuid())
	default:
		return nil
	}
}

// maxLinks is how many symbolic links a path may have, as in Linux.
const maxLinks = 40

// checkPath checks each directory and link on the way to path, which is absolute: only root and
// this process's user may replace it. Others may create files in a sticky directory, such as
// /tmp, and replace none.
func checkPath(path string, links int) error {
	at, rest := "/", strings.Split(path, "/")
	for i, part := range rest {
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		owner := info.Sys().(*syscall.Stat_t).Uid
		switch {
		case owner != 0 && int(owner) != os.Geteuid():
			return fmt.Errorf("%s belongs to user %d, and that user can replace what is in it: name a directory of your own with --dir", at, owner)
		case info.Mode().Type() == fs.ModeSymlink:
			target, err := os.Readlink(at)
			if err != nil || links == 0 {
				return errors.Join(err, fmt.Errorf("%s is a symbolic link that cannot be followed: name another directory with --dir", at))
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(at), target)
			}
			return checkPath(filepath.Join(target, filepath.Join(rest[i+1:]...)), links-1)
		case !info.IsDir():
			return fmt.Errorf("%s is no directory: name another with --dir", at)
		case writableByOthers(info) && info.Mode()&fs.ModeSticky == 0:
			return fmt.Errorf("%s has mode %04o, so that other users can replace what is in it: name a directory of your own with --dir, or run chmod go-w on it", at, info.Mode().Perm())
		}
	}
	return nil
}

// writableByOthers reports whether the mode lets other users write. The group of a user alone,
// which many systems create with the user's own number, has no other member.
func writableByOthers(info fs.FileInfo) bool {
	mode, group := info.Mode().Perm(), int(info.Sys().(*syscall.Stat_t).Gid)
	alone := group == os.Geteuid() && group == os.Getegid()
	return mode&0o002 != 0 || mode&0o020 != 0 && !alone
}
