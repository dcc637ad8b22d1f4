// SPDX-License-Identifier: Apache-2.0

// Package secretfile reads the small files in which operators store keys, and the secrets that open
// them.
//
// Packages below ca/signer may import it.
package secretfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/mayfly-ca/mayfly/internal/textfile"
)

// Read returns the content of a file of at most limit bytes. It also returns a warning if more
// users than necessary can read or change the file: see exposed.
func Read(path string, limit int64) (content []byte, warning, err error) {
	if path == "" {
		return nil, nil, errors.New("no file is named")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the file: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("asking for the file's mode: %w", err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() {
		groups, err := os.Getgroups()
		if err != nil {
			return nil, nil, fmt.Errorf("asking for the groups of this process: %w", err)
		}
		if how := exposed(info.Mode().Perm(), int(stat.Uid), int(stat.Gid), os.Geteuid(), append(groups, os.Getegid())); how != "" {
			// The right mode depends on the server's user, which may not be this process's user: a
			// suggested command could lock the server out of its own file.
			warning = fmt.Errorf("%s has mode %04o, so that %s; only the server's user needs to read it: its own file with mode 0600, or a file of another user with mode 0640 and a group of the server (in Kubernetes, defaultMode: 0440 and fsGroup)", path, info.Mode().Perm(), how)
		}
	}
	content, err = io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("reading the file: %w", err)
	case int64(len(content)) > limit:
		return nil, nil, fmt.Errorf("%s has more than %d bytes; is it the right file?", path, limit)
	}
	return content, warning, nil
}

// exposed checks the mode of a secret file for a process of user with groups. It returns what too
// many users can do with a file of this mode, owner and group, or "" if the file is protected. A
// group may read a file that the process reads by its group. In Kubernetes, root owns the files
// and fsGroup is their group (modes 0440 and 0640). The group may not read a file of the process's
// own user if the process is not in the group.
func exposed(mode fs.FileMode, owner, group, user int, groups []int) string {
	switch {
	case mode&0o002 != 0:
		return "every user can change it"
	case mode&0o007 != 0:
		return "every user can reach it"
	case mode&0o020 != 0:
		return "its group can change it"
	case mode&0o040 != 0 && owner == user && !slices.Contains(groups, group):
		return "a group can read it that is none of this process"
	default:
		return ""
	}
}

// maxLine exceeds every password, PIN or token; batch tokens of Vault take some KiB.
const maxLine = 16 << 10

// Line is Read for a file that holds only a secret: it returns the content without a byte order
// mark and one line ending, as textfile.Line does. what names the expected content.
func Line(path, what string) (secret []byte, warning, err error) {
	secret, warning, err = Read(path, maxLine)
	if err != nil {
		return nil, nil, err
	}
	if secret, err = textfile.Line(secret); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(secret) == 0 {
		return nil, nil, fmt.Errorf("%s is empty; it should hold %s", path, what)
	}
	return secret, warning, nil
}
