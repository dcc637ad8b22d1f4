// SPDX-License-Identifier: Apache-2.0

package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	regular, idle := filepath.Join(dir, "regular"), filepath.Join(dir, "idle")
	if err := errors.Join(os.WriteFile(regular, []byte("12345"), 0o600), syscall.Mkfifo(idle, 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		path  string
		limit int64
		want  string // in the error
	}{
		"regular": {regular, 5, ""}, "too large": {regular, 4, "more than 4 bytes"}, "missing": {regular + "x", 5, "no such file"},
		"not named": {"", 5, "no file is named"}, "folder": {dir, 5, "is a folder"}, "endless": {"/dev/zero", 5, "is a device"},
		"pipe without a writer": {idle, 5, "is a pipe"},
	} {
		content, err := Read(test.path, test.limit)
		if test.want == "" && (err != nil || string(content) != "12345") || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %q and error %v, want %q", name, content, err, test.want)
		}
	}
}

// A shell's <(command) is a pipe whose writer may take a while.
func TestReadPipe(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(path, os.O_RDWR, 0) // waits for no reader
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(20 * time.Millisecond)
		_, _ = writer.WriteString("secret\n")
		_ = writer.Close()
	}()
	if secret, warning, err := ReadSecretLine(path, "a password"); string(secret) != "secret" || warning != nil || err != nil {
		t.Errorf("got %q, %v, %v", secret, warning, err)
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "name")
	for _, content := range []string{"first", "second"} {
		if err := WriteDurably(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); string(got) != content {
			t.Errorf("got %q and error %v, want %q", got, err, content)
		}
		if err := os.Chmod(name, 0o664); err != nil {
			t.Fatal(err)
		}
	}
	if err := Replace(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode() != 0o664 {
		t.Errorf("the mode became %v (%v), want that of the old file", info.Mode(), err)
	}
	if err := Create(name, nil, 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create replaced a file: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Replace(filepath.Join(dir, "folder"), nil, 0o600); err == nil {
		t.Error("Replace replaced a folder")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+TemporarySuffix)); left != nil {
		t.Errorf("%v is left", left)
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "lock")
	held, err := Lock(name, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(name, 0o600); !errors.Is(err, ErrLocked) {
		t.Errorf("the second lock got error %v", err)
	}
	if err := Unlock(held); err != nil {
		t.Fatal(err)
	}
	if held, err = Lock(name, 0o600); err != nil {
		t.Fatalf("after the release: %v", err)
	}
	_ = Unlock(held)
}
