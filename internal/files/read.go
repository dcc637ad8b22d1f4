// SPDX-License-Identifier: Apache-2.0

// Package files reads the files that operators name, and writes files durably. Every package may
// import it.
package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"
)

const (
	// pipeTimeout is how long Read waits for the writer of a pipe, which may ask a person for a passphrase.
	pipeTimeout = 30 * time.Second
	// maxSecret exceeds every password, PIN or token; batch tokens of Vault take some KiB.
	maxSecret = 16 << 10
)

var errTooLarge = errors.New("it is too large")

// Read returns the content of a file of at most limit bytes. Every error names the file. Read
// accepts a regular file, and a pipe that a process writes to, as the shell's <(command) is one. It
// refuses at once what could block or never end: a pipe without a writer, and a device.
func Read(name string, limit int64) ([]byte, error) {
	content, _, err := read(name, limit)
	return content, err
}

func read(name string, limit int64) (content []byte, info fs.FileInfo, err error) {
	if name == "" {
		return nil, nil, errors.New("no file is named")
	}
	// Without O_NONBLOCK, opening a pipe waits for a writer.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	if info, err = f.Stat(); err != nil {
		return nil, nil, err
	}
	pipe := info.Mode().Type() == fs.ModeNamedPipe
	switch {
	case pipe:
		if err := f.SetReadDeadline(time.Now().Add(pipeTimeout)); err != nil {
			return nil, nil, err
		}
	case info.IsDir():
		return nil, nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("it is a folder; a file is required")}
	case !info.Mode().IsRegular():
		return nil, nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("it is a device or a socket; a regular file is required")}
	}
	content, err = ReadAll(f, limit)
	switch {
	case errors.Is(err, errTooLarge):
		return nil, nil, fmt.Errorf("%s has more than %d bytes; is it the right file?", name, limit)
	case pipe && errors.Is(err, os.ErrDeadlineExceeded):
		return nil, nil, fmt.Errorf("%s is a pipe whose writer has not finished within %v", name, pipeTimeout)
	case err != nil:
		return nil, nil, err
	case pipe && len(content) == 0:
		return nil, nil, fmt.Errorf("%s is a pipe that no process writes to, or that has been read before; name a regular file", name)
	}
	return content, info, nil
}

// ReadAll reads r to its end, which must be within limit bytes.
func ReadAll(r io.Reader, limit int64) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
	}
	if err != nil {
		return nil, err
	}
	return content, nil
}

// Text returns data without a byte order mark at its beginning. It refuses UTF-16 and UTF-32, also
// without a mark.
func Text(data []byte) ([]byte, error) {
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) ||
		len(data) >= 4 && (data[0] == 0 && data[2] == 0 || data[1] == 0 && data[3] == 0) {
		return nil, errors.New("it is UTF-16 or UTF-32 text; save it as UTF-8 (in PowerShell: -Encoding utf8)")
	}
	return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), nil
}

// Line returns data without a byte order mark and without one line ending, which an editor or
// echo adds. It removes nothing more: a secret may end in white space.
func Line(data []byte) ([]byte, error) {
	text, err := Text(data)
	if line, found := bytes.CutSuffix(text, []byte("\n")); found {
		text = bytes.TrimSuffix(line, []byte("\r"))
	}
	return text, err
}

// ReadSecret is Read for a key or a password. It also returns a warning if more users than necessary
// can read or change the file: see exposed.
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
		// The warning holds no command: the server's user may not be this process's user, and the command
		// could lock the server out of its own file.
		warning = fmt.Errorf("%s has mode %04o, so that %s; only the server's user needs to read it: its own file with mode 0600, or a file of another user with mode 0640 and a group of the server (in Kubernetes, defaultMode: 0440 and fsGroup)", name, info.Mode().Perm(), how)
	}
	return content, warning, nil
}

// ReadSecretLine is ReadSecret for a file that holds only a secret: it returns the Line. what
// names the expected content.
func ReadSecretLine(name, what string) (secret []byte, warning, err error) {
	content, warning, err := ReadSecret(name, maxSecret)
	if err != nil {
		return nil, nil, err
	}
	if secret, err = Line(content); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(secret) == 0 {
		return nil, nil, fmt.Errorf("%s is empty; it should hold %s", name, what)
	}
	return secret, warning, nil
}

// exposed returns what too many users can do with a file of this mode, owner and group, or "". A
// group may read a file that a process of user, in groups, reads by its group: in Kubernetes, root
// owns mounted secrets and fsGroup is their group (modes 0440 and 0640).
func exposed(mode fs.FileMode, owner, group, user int, groups []int) string {
	switch {
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
