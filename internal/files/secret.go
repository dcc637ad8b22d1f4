// SPDX-License-Identifier: Apache-2.0

package files

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"
)

// maxSecret exceeds every password, PIN or token; batch tokens of Vault take some KiB.
const maxSecret = 16 << 10

// ReadSecret is Read for a key or a password. It also returns a warning if more users than
// necessary can read or change the file: see exposed.
func ReadSecret(name string, limit int64) (content []byte, warning, err error) {
	content, info, err := read(name, limit)
	if err != nil {
		return nil, nil, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return content, nil, nil
	}
	groups, err := os.Getgroups()
	if err != nil {
		return nil, nil, fmt.Errorf("asking for the groups of this process: %w", err)
	}
	if how := exposed(info.Mode().Perm(), int(stat.Uid), int(stat.Gid), os.Geteuid(), append(groups, os.Getegid())); how != "" {
		// The right mode depends on the server's user, which may not be this process's user: a
		// suggested command could lock the server out of its own file.
		warning = fmt.Errorf("%s has mode %04o, so that %s; only the server's user needs to read it: its own file with mode 0600, or a file of another user with mode 0640 and a group of the server (in Kubernetes, defaultMode: 0440 and fsGroup)", name, info.Mode().Perm(), how)
	}
	return content, warning, nil
}

// ReadSecretLine is ReadSecret for a file that holds only a secret: it returns the Line. what
// names the expected content.
func ReadSecretLine(name, what string) (secret []byte, warning, err error) {
	secret, warning, err = ReadSecret(name, maxSecret)
	if err != nil {
		return nil, nil, err
	}
	if secret, err = Line(secret); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(secret) == 0 {
		return nil, nil, fmt.Errorf("%s is empty; it should hold %s", name, what)
	}
	return secret, warning, nil
}

// exposed returns what too many users can do with a file of this mode, owner and group, or "" if
// the file is protected. A group may read a file that a process of user, in groups, reads by its
// group: in Kubernetes, root owns mounted secrets and fsGroup is their group (modes 0440 and 0640).
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
