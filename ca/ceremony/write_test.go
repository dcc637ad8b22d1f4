// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"os"
	"path/filepath"
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
