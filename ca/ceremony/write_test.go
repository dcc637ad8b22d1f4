// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// writeAll writes files into dir as every ceremony does.
func writeAll(dir string, files []file) error {
	place, err := reserve(dir)
	if err != nil {
		return err
	}
	return place.release(place.write(files))
}

// A failure half-way leaves earlier content unchanged, and leaves no key.
func TestWriteAllLeavesNothingAfterAnError(t *testing.T) {
	t.Parallel()
	content := []byte("x")
	for name, broken := range map[string]file{
		"cannot be written":   {"a", "impossible\x00", secretMode, content},
		"cannot be moved":     {"occupied", "b", secretMode, content},
		"stands there twice":  {"a", "key", secretMode, content},
		"cannot be a folder ": {"a/key", "below a file", secretMode, content},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := []file{{"a", "key", secretMode, content}, {"", "top", publicMode, content}, broken}

			there := t.TempDir()
			if err := os.MkdirAll(filepath.Join(there, "occupied", "by another"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := writeAll(there, files); err == nil {
				t.Error("no error")
			}
			if entries, err := os.ReadDir(there); err != nil || len(entries) != 1 {
				t.Errorf("left %v, %v", entries, err)
			}

			if broken.folder == "occupied" {
				return
			}
			above := t.TempDir()
			if err := writeAll(filepath.Join(above, "deep", "ca"), files); err == nil {
				t.Error("no error in a new folder")
			}
			if entries, err := os.ReadDir(above); err != nil || len(entries) != 0 {
				t.Errorf("left %v, %v", entries, err)
			}
		})
	}
}

// An authority that root adds belongs to the owner of the set, who reads its key. Where other users search the set's
// folder for chains, they also search the new one.
func TestFolderBesideASet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	set, id := filepath.Join(dir, setFile), filepath.Join(dir, "2026-b")
	if err := errors.Join(os.WriteFile(set, nil, 0o600), os.Chmod(dir, 0o711)); err != nil {
		t.Fatal(err)
	}
	owner := uint32(os.Getuid())
	if owner == 0 {
		owner = 4242
		if err := errors.Join(os.Chown(dir, 4242, 4242), os.Chown(set, 4242, 4242)); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeAll(id, []file{{"", chainFile, publicMode, nil}, {"", keyFile, secretMode, nil}}); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]fs.FileMode{id: 0o711, filepath.Join(id, chainFile): publicMode, filepath.Join(id, keyFile): secretMode} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if found := info.Sys().(*syscall.Stat_t).Uid; info.Mode().Perm() != mode || found != owner {
			t.Errorf("%s has mode %o and owner %d, want %o and %d", path, info.Mode().Perm(), found, mode, owner)
		}
	}
}
