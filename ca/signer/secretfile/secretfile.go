// SPDX-License-Identifier: Apache-2.0

// Package secretfile reads the small files in which operators keep what opens keys, and keys.
//
// What is below ca/signer may import it.
package secretfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// Read returns the content of a file of at most limit bytes, and a warning if others than its
// owner may read or change it.
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
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 {
		warning = fmt.Errorf("%s has mode %04o, so that others than its owner may reach it; run: chmod 600 %[1]s", path, mode.Perm())
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

// maxLine is more than any password, PIN or token has; batch tokens of Vault take some KiB.
const maxLine = 16 << 10

// Line is Read of a secret that stands in a file alone: its whole content without one line
// ending at its end, which an editor or echo puts there, and no more, since a secret may end in
// white space. what says what should be in the file.
func Line(path, what string) (secret []byte, warning, err error) {
	secret, warning, err = Read(path, maxLine)
	if err != nil {
		return nil, nil, err
	}
	if line, found := bytes.CutSuffix(secret, []byte("\n")); found {
		secret = bytes.TrimSuffix(line, []byte("\r"))
	}
	if len(secret) == 0 {
		return nil, nil, fmt.Errorf("%s is empty; it should hold %s", path, what)
	}
	return secret, warning, nil
}
