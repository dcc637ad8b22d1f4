// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
)

// mount returns a small filesystem of its own, or skips the test.
func mount(t *testing.T, megabytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", megabytes)); err != nil {
		t.Skipf("this test needs to mount a small tmpfs, which takes root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func remount(t *testing.T, dir string, flags uintptr, megabytes int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(time.Millisecond) {
		err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT|flags, fmt.Sprintf("size=%dm", megabytes))
		if err == nil {
			return
		}
		// Tessera opens a file for a moment from time to time.
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func isStorageError(t *testing.T, err error) {
	t.Helper()
	if !errors.As(err, new(*StorageError)) {
		t.Errorf("got %v, want a *StorageError", err)
	}
}

// waitForStorage waits until the check in the background has found that the log can store an entry,
// or that it cannot.
func waitForStorage(t *testing.T, l *Log, ready bool) {
	t.Helper()
	for (l.storage.Load().err == nil) != ready {
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(l.storage.Load().err)
		}
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		s    unix.Statfs_t
		free uint64
		ok   bool
	}{
		{"ext4", unix.Statfs_t{Type: unix.EXT4_SUPER_MAGIC, Bsize: 4096, Bavail: 3}, 12288, true},
		{"a reserve in use", unix.Statfs_t{Type: unix.EXT4_SUPER_MAGIC, Bsize: 4096, Bavail: ^uint64(0)}, 0, true},
		{"read-only", unix.Statfs_t{Type: unix.XFS_SUPER_MAGIC, Bsize: 1, Bavail: 2, Flags: unix.ST_RDONLY}, 2, false},
		{"NFS", unix.Statfs_t{Type: unix.NFS_SUPER_MAGIC}, 0, false},
		{"SMB", unix.Statfs_t{Type: unix.CIFS_SUPER_MAGIC}, 0, false},
	} {
		if free, err := classify("/srv/log", test.s); free != test.free || errors.As(err, new(*StorageError)) == test.ok {
			t.Errorf("%s: got %d and error %v, want %d", test.name, free, err, test.free)
		}
	}
}

func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	const size = 64
	for _, name := range []string{"directory", "guard"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk, elsewhere := mount(t, size), t.TempDir()
			base, guard := disk, elsewhere
			if name == "guard" {
				base, guard = elsewhere, disk
			}
			a, cfg := newAuthority(t), newConfigIn(t, base)
			made := cfg.Guard
			cfg.Guard = filepath.Join(guard, "guard.json")
			copyFile(t, made, cfg.Guard)
			l := open(t, cfg)
			submit(t, l, a, 3)
			waitForCheckpoint(t, l, 3)
			remount(t, disk, syscall.MS_RDONLY, size)
			if name == "directory" {
				// Tessera's worker panics where it cannot open its lock: the log must refuse earlier.
				waitForStorage(t, l, false)
			}
			_, err := l.Submit(t.Context(), a.submission(t))
			isStorageError(t, err)
			isStorageError(t, l.Ready())
			if failed := testutil.ToFloat64(l.metrics.failed); failed != 1 {
				t.Errorf("%v entries have failed, want 1", failed)
			}
			remount(t, disk, 0, size)
			waitForStorage(t, l, true)
			submit(t, l, a, 1) // where the guard was read-only, after an entry whose SCT no client has
			shutdown(t, l)

			remount(t, disk, syscall.MS_RDONLY, size)
			_, err = Open(t.Context(), cfg)
			isStorageError(t, err)
			if _, err := Inspect(t.Context(), cfg); err != nil {
				t.Errorf("inspecting: %v", err)
			}
			if _, err := Fsck(t.Context(), cfg); err != nil {
				t.Error(err)
			}
			remount(t, disk, 0, size)
			shutdown(t, open(t, cfg))
		})
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	for name, reserve := range map[string]uint64{
		"nearly full":                   0,
		"full in the middle of a batch": 1, // without the reserve Tessera itself fills the disk
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := mount(t, 48)
			a, cfg := newAuthority(t), newConfigIn(t, base)
			cfg.reserve = reserve
			l := open(t, cfg)
			submit(t, l, a, 3)
			waitForCheckpoint(t, l, 3)

			ballast := filepath.Join(base, "ballast")
			fill(t, ballast, base)
			if reserve == 0 {
				waitForStorage(t, l, false)
			}
			_, err := l.Submit(t.Context(), a.submission(t))
			if err == nil {
				t.Fatal("an SCT came from a full disk")
			}
			if reserve == 0 {
				isStorageError(t, err)
				isStorageError(t, l.Ready())
			}
			remove(t, ballast)
			waitForStorage(t, l, true)
			scts := submit(t, l, a, 2)
			if index := leafIndex(t, scts[0].Extensions); index > 5 {
				t.Errorf("the next entry is number %d", index)
			}
			shutdown(t, l)
			if _, err := Fsck(t.Context(), cfg); err != nil {
				t.Error(err)
			}
		})
	}
}

// fill leaves one page on the filesystem of dir, so that a file can be started.
func fill(t *testing.T, path, dir string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for {
		free, err := statFilesystem(dir)
		if err != nil {
			t.Fatal(err)
		}
		if free <= 4096 {
			break
		}
		if _, err := f.Write(make([]byte, min(free-4096, 1<<20))); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
