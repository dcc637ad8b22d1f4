// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mayfly-ca/mayfly/internal/files"
)

// markerFile marks a directory as a development world's.
const markerFile = ".mayfly-dev"

// format is the version of the directory's content.
const format = 1

// maxFile bounds the size of a file that the development world reads again.
const maxFile = 1 << 20

// marker is the content of markerFile.
type marker struct {
	Format int `json:"format"`
	// Host is the host of the world's URLs. Its Rekor log has this name, and verifiers require a log's name
	// to be the host of its URL.
	Host string `json:"host"`
	Note string `json:"note"`
}

// openDir creates dir, if it is missing, for a world on host, or checks that it is one, and locks
// it until the file is closed. It returns dir without symbolic links.
func openDir(dir, host string) (string, *os.File, error) {
	dir, err := ownDir(dir)
	if err != nil {
		return "", nil, fmt.Errorf("checking the directory of the development world: %w; name another with --dir", err)
	}
	if err := claimDir(dir, host); err != nil {
		return "", nil, err
	}
	lock, err := files.Lock(filepath.Join(dir, "lock"), 0o600)
	if errors.Is(err, files.ErrLocked) {
		err = fmt.Errorf("another mayfly dev uses %s: stop it, or name another directory with --dir", dir)
	}
	return dir, lock, err
}

// claimDir makes an empty dir a development world's, or checks that it is one. It refuses any other
// directory. Keys of a production CA and of a development world must never be mistaken for each
// other, nor be in one directory.
func claimDir(dir, host string) error {
	file := filepath.Join(dir, markerFile)
	content, err := files.Read(file, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		if len(entries) > 0 {
			return fmt.Errorf("%s holds %s, which may be of a real CA, and lacks the marker %s of a development world: "+
				"name a new or empty directory with --dir", dir, entries[0].Name(), markerFile)
		}
		return writeMarker(dir, host)
	}
	if err != nil {
		return fmt.Errorf("reading the marker of the development world: %w", err)
	}
	var m marker
	if err := json.Unmarshal(content, &m); err != nil || m.Format != format {
		return fmt.Errorf("%s does not mark a development world of this version of mayfly (format %d): "+
			"name a new directory with --dir, or delete this one if nothing in it is needed", file, format)
	}
	if m.Host != host {
		return fmt.Errorf("%s was made for the host %q, and its Rekor log is named after it: listen there (--listen %s, or --expose %s "+
			"where it is the name for other machines), or name another directory with --dir", dir, m.Host, net.JoinHostPort(m.Host, "5555"), m.Host)
	}
	return nil
}

func writeMarker(dir, host string) error {
	const note = "A development world of mayfly, with unprotected keys that nobody may trust. mayfly dev --dir carries it on; it may be deleted."
	content, err := json.Marshal(marker{format, host, note})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, markerFile), append(content, '\n'), 0o600)
}

// ownDir creates dir if it is missing, and returns it without symbolic links. Only this process's
// user, and root, can change its content or which directory its name means, and no link leads out
// of it. Later writes below it, also by libraries, then follow no link of another user. The check
// precedes every other access, since a name that another user chose may block or lead elsewhere.
func ownDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	const maxLinks = 40 // as in Linux
	if err = checkPath(dir, maxLinks); errors.Is(err, fs.ErrNotExist) {
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
	return dir, err
}

// checkPath checks each directory and link on the way to path, which is absolute: only root and this
// process's user may replace it. Others may create files in a sticky directory, such as /tmp, and
// replace none.
func checkPath(path string, links int) error {
	at, parts := "/", strings.Split(path, "/")
	for i, part := range parts {
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		uid, link := info.Sys().(*syscall.Stat_t).Uid, info.Mode().Type() == fs.ModeSymlink
		switch {
		case uid != 0 && int(uid) != os.Geteuid() || !link && writableByOthers(info) && info.Mode()&fs.ModeSticky == 0:
			return fmt.Errorf("%s belongs to user %d and has mode %04o, so that other users can replace what is in it", at, uid, info.Mode().Perm())
		case link:
			target, err := os.Readlink(at)
			if err != nil || links == 0 {
				return errors.Join(err, fmt.Errorf("%s is a symbolic link that cannot be followed", at))
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(at), target)
			}
			return checkPath(filepath.Join(target, filepath.Join(parts[i+1:]...)), links-1)
		case !info.IsDir():
			return fmt.Errorf("%s is no directory", at)
		}
	}
	return nil
}

// checkTree checks dir and, if it is a development world's, everything in it. A process that was killed
// may have left a file with two names in dir.
func checkTree(dir string) error {
	_, err := os.Lstat(filepath.Join(dir, markerFile))
	inside, private := !errors.Is(err, fs.ErrNotExist), false
	type inode struct{ device, number uint64 }
	elsewhere := make(map[inode]uint64) // how many names a file has outside
	names := make(map[inode]string)     // one of those inside
	err = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = entry.Info()
		}
		if errors.Is(err, fs.ErrNotExist) && name != dir {
			return nil // another mayfly dev renames its files: the lock will report it
		}
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		switch {
		case !info.IsDir() && !info.Mode().IsRegular():
			return fmt.Errorf("%s is neither a file nor a directory (%s), and mayfly dev creates no such thing", name, info.Mode().Type())
		case int(stat.Uid) != os.Geteuid():
			return fmt.Errorf("%s belongs to user %d, and this process runs as user %d", name, stat.Uid, os.Geteuid())
		case !private && writableByOthers(info):
			return fmt.Errorf("%s has mode %04o, so that other users can change it: run chmod go-w on it, if no other user has used it", name, info.Mode().Perm())
		case name == dir: // the umask decides the mode of files in a directory that others cannot enter
			private = info.Mode().Perm()&0o077 == 0
		case !info.IsDir() && stat.Nlink > 1:
			file := inode{uint64(stat.Dev), stat.Ino}
			if names[file] == "" {
				names[file], elsewhere[file] = name, uint64(stat.Nlink)
			}
			elsewhere[file]--
		}
		if !inside {
			return fs.SkipAll // claimDir refuses it unless it is empty
		}
		return nil
	})
	for file, number := range elsewhere {
		if number > 0 && err == nil {
			err = fmt.Errorf("%s has another name outside of %s (a hard link), and both would be written", names[file], dir)
		}
	}
	return err
}

// writableByOthers reports whether the mode lets other users write. The group of a user alone,
// which many systems create with the user's own number, has no other member.
func writableByOthers(info fs.FileInfo) bool {
	mode, group := info.Mode().Perm(), int(info.Sys().(*syscall.Stat_t).Gid)
	alone := group == os.Geteuid() && group == os.Getegid()
	return mode&0o002 != 0 || mode&0o020 != 0 && !alone
}
