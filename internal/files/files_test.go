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
		"not named": {"", 5, "no file is named"}, "folder": {dir, 5, "it is a folder"}, "endless": {"/dev/zero", 5, "it is a device"},
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

// TestPermissionsThatKubernetesGives lists the owners, groups and modes of mounted secrets, and
// those that a secret must not have.
func TestPermissionsThatKubernetesGives(t *testing.T) {
	t.Parallel()
	const root, server, other = 0, 65532, 1000
	groups := []int{server, 2000} // 2000 is the fsGroup
	for name, test := range map[string]struct {
		mode         fs.FileMode
		owner, group int
		want         bool
	}{
		"its own":                               {0o600, server, server, false},
		"its own, read only":                    {0o400, server, server, false},
		"its own, its group":                    {0o640, server, server, false},
		"its own, another of its groups":        {0o440, server, 2000, false},
		"defaultMode 0400 and fsGroup":          {0o440, root, 2000, false},
		"a projected volume":                    {0o640, root, 2000, false},
		"no group bits, of another":             {0o600, root, root, false},
		"another's, a group that is not its":    {0o440, root, root, false},
		"executable for the group":              {0o750, server, server, false},
		"nothing for the owner":                 {0o040, root, 2000, false},
		"its own, a group that is not its":      {0o640, server, other, true},
		"defaultMode left out":                  {0o644, root, root, true},
		"defaultMode left out, fsGroup":         {0o644, root, 2000, true},
		"its own, for all":                      {0o604, server, server, true},
		"a volume's fsGroup, which may write":   {0o660, root, 2000, true},
		"its own, its group may write":          {0o620, server, server, true},
		"all may write":                         {0o602, server, server, true},
		"all may write and its group read only": {0o646, root, 2000, true},
		"all may execute":                       {0o601, server, server, true},
	} {
		if how := exposed(test.mode, test.owner, test.group, server, groups); (how != "") != test.want {
			t.Errorf("%s: %q, want a warning: %v", name, how, test.want)
		}
	}
}

// TestReadFollowsMountedLinks reads a key as Kubernetes mounts it, behind two links. The warning is
// about the file's own mode and holds no command that could lock the server out.
func TestReadFollowsMountedLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for mode, warned := range map[fs.FileMode]bool{0o440: false, 0o640: false, 0o644: true} {
		data := filepath.Join(dir, "..data-"+mode.String())
		link := filepath.Join(dir, "key-"+mode.String())
		for _, err := range []error{
			os.Mkdir(data, 0o755), os.WriteFile(filepath.Join(data, "key"), []byte("secret"), 0o600), os.Chmod(filepath.Join(data, "key"), mode),
			os.Symlink(filepath.Base(data), data+"-link"), os.Symlink(filepath.Join(filepath.Base(data)+"-link", "key"), link),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		content, warning, err := ReadSecret(link, 10)
		if err != nil || string(content) != "secret" || (warning != nil) != warned {
			t.Errorf("mode %04o: %q, %v, %v", mode, content, warning, err)
		}
		if warning != nil && strings.Contains(warning.Error(), "chmod") {
			t.Errorf("mode %04o: %v", mode, warning)
		}
	}
}

// A byte order mark and one line ending are not part of a secret; text that hides its content is refused.
func TestReadSecretLine(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pass")
	for content, want := range map[string]string{ // "": refused
		"secret": "secret", "secret\n": "secret", "\ufeffsecret\r\n": "secret", "secret\n\n": "secret\n", " secret \n": " secret ",
		"a\ufeff": "a\ufeff", "p": "p", "pw": "pw", "pässwörd\n": "pässwörd", "": "", "\n": "", "\ufeff\n": "",
		"\xff\xfes\x00e\x00": "", "\xfe\xff\x00s\x00e": "", "s\x00e\x00c\x00": "", "\x00s\x00e\x00c": "", "\xff\xfe\x00\x00s\x00\x00\x00": "",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		secret, _, err := ReadSecretLine(file, "a password")
		if string(secret) != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q and error %v, want %q", content, secret, err, want)
		}
	}
}
