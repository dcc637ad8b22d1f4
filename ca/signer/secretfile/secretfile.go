// SPDX-License-Identifier: Apache-2.0

// Package secretfile reads the small files in which operators keep what opens keys, and keys.
//
// What is below ca/signer may import it.
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

// Read returns the content of a file of at most limit bytes, and a warning if more users can
// read or change it than need to: see exposed.
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
			// The mode that fits depends on the user that the server runs as, which may be another
			// than this process's: a command to run could keep the server from its own file.
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

// exposed is the rule for files that hold secrets: it returns what too many users can do with a
// file of this mode, owner and group, and "" if the file is kept well for a process of user with
// groups. A group may read a file where the process does so by its group, as in
// Kubernetes, where root owns the files and fsGroup is their group (modes 0440 and 0640). It may
// not read a file of the process's own user if the process is not in the group.
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

// maxLine is more than any password, PIN or token has; batch tokens of Vault take some KiB.
const maxLine = 16 << 10

// Line is Read of a secret that stands in a file alone: its whole content without a byte
// order mark and one line ending, as textfile.Line reads it. what says what should be in the file.
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
