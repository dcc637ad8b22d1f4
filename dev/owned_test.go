// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestRefusesDirectoriesThatOthersCanChange prepares obstacles that another user, or an archive of
// theirs, can create. Nothing outside of the directory may be created or changed.
func TestRefusesDirectoriesThatOthersCanChange(t *testing.T) {
	t.Parallel()
	const host = "127.0.0.1"
	another := func(t *testing.T, names ...string) error {
		if os.Geteuid() != 0 {
			t.Skip("only root can give files to another user")
		}
		var errs []error
		for _, name := range names {
			errs = append(errs, os.Lchown(name, 65534, 65534))
		}
		return errors.Join(errs...)
	}
	world := func(dir string) error { return errors.Join(os.MkdirAll(dir, 0o755), writeMarker(dir, host)) }
	for name, test := range map[string]struct {
		// prepare creates the directory, which is named "own/world" below base, at dir; victim is a file
		// that exists beside it.
		prepare func(t *testing.T, base, dir, victim string) error
		want    string // "" where it starts
	}{
		"a missing one": {func(*testing.T, string, string, string) error { return nil }, ""},
		"an empty one":  {func(_ *testing.T, _, dir, _ string) error { return os.MkdirAll(dir, 0o755) }, ""},
		"a world":       {func(_ *testing.T, _, dir, _ string) error { return world(dir) }, ""},
		"a link of one's own": {func(_ *testing.T, base, dir, _ string) error {
			return errors.Join(os.Mkdir(filepath.Join(base, "real"), 0o700), os.Mkdir(filepath.Dir(dir), 0o755), os.Symlink("../real", dir))
		}, ""},
		"a hard link inside": {func(_ *testing.T, _, dir, _ string) error {
			return errors.Join(world(dir), os.WriteFile(filepath.Join(dir, "a"), nil, 0o600), os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")))
		}, ""},
		"a sticky parent": {func(_ *testing.T, _, dir, _ string) error {
			return errors.Join(os.Mkdir(filepath.Dir(dir), 0o755), os.Chmod(filepath.Dir(dir), 0o777|os.ModeSticky))
		}, ""},
		"any umask, in a private one": {func(_ *testing.T, _, dir, _ string) error {
			return errors.Join(world(dir), os.Chmod(dir, 0o700), os.Chmod(filepath.Join(dir, markerFile), 0o666))
		}, ""},
		"settings that are a link": {func(_ *testing.T, _, dir, victim string) error {
			return errors.Join(world(dir), os.Symlink(victim, filepath.Join(dir, settingsFile)))
		}, "neither a file nor a directory"},
		"a dangling link": {func(_ *testing.T, base, dir, _ string) error {
			return errors.Join(world(dir), os.Symlink(filepath.Join(base, "new"), filepath.Join(dir, rekorKey)))
		}, "neither a file nor a directory"},
		"a lock that is a link": {func(_ *testing.T, base, dir, _ string) error {
			return errors.Join(world(dir), os.Symlink(filepath.Join(base, "new"), filepath.Join(dir, "lock")))
		}, "neither a file nor a directory"},
		"a marker that is a link": {func(_ *testing.T, base, dir, _ string) error {
			return errors.Join(os.MkdirAll(dir, 0o755), os.Symlink(filepath.Join(base, "new"), filepath.Join(dir, markerFile)))
		}, "neither a file nor a directory"},
		"a folder that is a link": {func(_ *testing.T, base, dir, _ string) error {
			return errors.Join(world(dir), os.Symlink(base, filepath.Join(dir, tufFolder)))
		}, "neither a file nor a directory"},
		"a link deep inside": {func(_ *testing.T, base, dir, victim string) error {
			return errors.Join(world(dir), os.MkdirAll(filepath.Join(dir, tufFolder, "targets"), 0o755), os.Symlink(victim, filepath.Join(dir, tufFolder, "targets", "x")))
		}, "neither a file nor a directory"},
		"a FIFO": {func(_ *testing.T, _, dir, _ string) error {
			return errors.Join(world(dir), syscall.Mkfifo(filepath.Join(dir, tsaKey), 0o600))
		}, "neither a file nor a directory"},
		"a FIFO for a marker": {func(_ *testing.T, _, dir, _ string) error {
			return errors.Join(os.MkdirAll(dir, 0o755), syscall.Mkfifo(filepath.Join(dir, markerFile), 0o600))
		}, "neither a file nor a directory"},
		"a FIFO for a directory": {func(_ *testing.T, _, dir, _ string) error {
			return errors.Join(os.Mkdir(filepath.Dir(dir), 0o755), syscall.Mkfifo(dir, 0o600))
		}, "is no directory"},
		"a hard link to outside": {func(_ *testing.T, _, dir, victim string) error {
			return errors.Join(world(dir), os.Link(victim, filepath.Join(dir, issuersFile)))
		}, "hard link"},
		"a mode for all": {func(_ *testing.T, _, dir, _ string) error { return errors.Join(world(dir), os.Chmod(dir, 0o777)) }, "has mode 0777"},
		"sticky, for all": {func(_ *testing.T, _, dir, _ string) error {
			return errors.Join(world(dir), os.Chmod(dir, 0o777|os.ModeSticky))
		}, "has mode 0777"},
		"a file for all": {func(_ *testing.T, _, dir, _ string) error {
			return errors.Join(world(dir), os.Chmod(filepath.Join(dir, markerFile), 0o666))
		}, "has mode 0666"},
		"a parent for all": {func(_ *testing.T, _, dir, _ string) error {
			return errors.Join(world(dir), os.Chmod(filepath.Dir(dir), 0o777))
		}, "has mode 0777"},
		"another's": {func(t *testing.T, _, dir, _ string) error {
			return errors.Join(os.MkdirAll(dir, 0o755), another(t, dir))
		}, "belongs to user 65534"},
		"another's world": {func(t *testing.T, _, dir, _ string) error {
			return errors.Join(world(dir), another(t, dir, filepath.Join(dir, markerFile)))
		}, "belongs to user 65534"},
		"another's file": {func(t *testing.T, _, dir, _ string) error {
			return errors.Join(world(dir), another(t, filepath.Join(dir, markerFile)))
		}, "belongs to user 65534"},
		"another's parent": {func(t *testing.T, _, dir, _ string) error {
			return errors.Join(world(dir), another(t, filepath.Dir(dir)))
		}, "belongs to user 65534"},
		"another's parent, new": {func(t *testing.T, _, dir, _ string) error {
			return errors.Join(os.Mkdir(filepath.Dir(dir), 0o755), another(t, filepath.Dir(dir)))
		}, "belongs to user 65534"},
		"another's link": {func(t *testing.T, base, dir, _ string) error {
			return errors.Join(os.Mkdir(filepath.Join(base, "real"), 0o700), os.Mkdir(filepath.Dir(dir), 0o755), os.Symlink("../real", dir), another(t, dir))
		}, "belongs to user 65534"},
		// The target of dir ends in "..", after a link to a directory below another user's.
		"a link out of another's": {func(t *testing.T, base, dir, _ string) error {
			theirs := filepath.Join(base, "theirs")
			return errors.Join(os.MkdirAll(filepath.Join(base, "world"), 0o700), os.MkdirAll(filepath.Join(theirs, "world"), 0o700), os.Mkdir(filepath.Join(theirs, "sub"), 0o755),
				os.Symlink("theirs/sub", filepath.Join(base, "hop")), os.Mkdir(filepath.Dir(dir), 0o755), os.Symlink(base+"/hop/../world", dir), another(t, theirs))
		}, "belongs to user 65534"},
		"links without an end": {func(_ *testing.T, _, dir, _ string) error {
			return errors.Join(os.Mkdir(filepath.Dir(dir), 0o755), os.Symlink(dir, dir))
		}, "cannot be followed"},
		"a link through another's": {func(t *testing.T, base, dir, _ string) error {
			theirs := filepath.Join(base, "theirs")
			return errors.Join(os.MkdirAll(filepath.Join(base, "real"), 0o700), os.Mkdir(theirs, 0o755), os.Symlink("../real", filepath.Join(theirs, "hop")),
				os.Mkdir(filepath.Dir(dir), 0o755), os.Symlink("../theirs/hop", dir), another(t, theirs))
		}, "belongs to user 65534"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := t.TempDir()
			dir, victim := filepath.Join(base, "own", "world"), filepath.Join(base, "victim")
			if err := errors.Join(os.WriteFile(victim, []byte("mine"), 0o600), test.prepare(t, base, dir, victim)); err != nil {
				t.Fatal(err)
			}
			w, err := New(t.Context(), Config{Dir: dir, Listen: host + ":0"})
			switch {
			case err == nil && test.want != "":
				t.Error("it starts")
			case err != nil && (test.want == "" || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, want %q", err, test.want)
			}
			if err == nil {
				if err := w.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if content, err := os.ReadFile(victim); err != nil || string(content) != "mine" {
				t.Errorf("the file outside holds %q, %v", content, err)
			}
			if _, err := os.Lstat(filepath.Join(base, "new")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a file outside was created: %v", err)
			}
		})
	}
}
