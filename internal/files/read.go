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
	"syscall"
	"time"
)

// pipeTimeout is how long Read waits for the writer of a pipe, which may ask a person for a
// passphrase.
const pipeTimeout = 30 * time.Second

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
		return nil, nil, fmt.Errorf("%s is a folder; a file is required", name)
	case !info.Mode().IsRegular():
		return nil, nil, fmt.Errorf("%s is a device or a socket; a regular file is required", name)
	}
	content, err = ReadAll(f, limit)
	switch {
	case errors.Is(err, errTooLarge):
		return nil, nil, fmt.Errorf("%s has more than %d bytes; is it the right file?", name, limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
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
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
	}
	return content, nil
}

var errUTF16 = errors.New("it is UTF-16 or UTF-32 text; save it as UTF-8 (in PowerShell: -Encoding utf8)")

// Text returns data without a byte order mark at its beginning.
func Text(data []byte) ([]byte, error) {
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return nil, errUTF16
	}
	if len(data) >= 4 && (data[0] == 0 && data[2] == 0 || data[1] == 0 && data[3] == 0) { // without a mark
		return nil, errUTF16
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
