// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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

func checkStorage(t *testing.T, err error, says string) {
	t.Helper()
	var storage *StorageError
	if !errors.As(err, &storage) || !strings.Contains(err.Error(), says) {
		t.Errorf("got %v, want a *StorageError that says %q", err, says)
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
		says string
	}{
		{"ext4", unix.Statfs_t{Type: unix.EXT4_SUPER_MAGIC, Bsize: 4096, Bavail: 3}, 12288, ""},
		{"a reserve in use", unix.Statfs_t{Type: unix.EXT4_SUPER_MAGIC, Bsize: 4096, Bavail: ^uint64(0)}, 0, ""},
		{"read-only", unix.Statfs_t{Type: unix.XFS_SUPER_MAGIC, Bsize: 1, Bavail: 2, Flags: unix.ST_RDONLY}, 2, "read-only"},
		{"NFS", unix.Statfs_t{Type: unix.NFS_SUPER_MAGIC}, 0, "/srv/log is on NFS"},
		{"SMB", unix.Statfs_t{Type: unix.CIFS_SUPER_MAGIC}, 0, "/srv/log is on SMB"},
	} {
		free, err := classify("/srv/log", test.s)
		if free != test.free || (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %d and error %v, want %d", test.name, free, err, test.free)
		}
	}
}

func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	const size = 64
	base := mount(t, size)
	a, cfg := newAuthority(t), newConfigIn(t, base)
	// The guard is elsewhere, so that only the directory is affected.
	cfg.Guard = filepath.Join(t.TempDir(), "guard.json")
	copyFile(t, filepath.Join(base, "guard", "2026.json"), cfg.Guard)

	l := open(t, cfg)
	submit(t, l, a, 3)
	waitForCheckpoint(t, l, 3)
	remount(t, base, syscall.MS_RDONLY, size)
	waitForStorage(t, l, false)
	// Tessera's worker panics where it cannot open its lock: the log must refuse earlier.
	_, err := l.Submit(t.Context(), a.submission(t))
	checkStorage(t, err, "read-only")
	checkStorage(t, l.Ready(), "read-only")
	remount(t, base, 0, size)
	waitForStorage(t, l, true)
	submit(t, l, a, 3)
	shutdown(t, l)

	remount(t, base, syscall.MS_RDONLY, size)
	_, err = Open(t.Context(), cfg)
	checkStorage(t, err, "read-only")
	if _, err := Inspect(t.Context(), cfg); err != nil {
		t.Errorf("inspecting: %v", err)
	}
	if n, err := Fsck(t.Context(), cfg); err != nil || n != 6 {
		t.Errorf("fsck: %d, %v", n, err)
	}
	remount(t, base, 0, size)
	l = open(t, cfg)
	submit(t, l, a, 1)
	shutdown(t, l)
}

func TestReadOnlyGuard(t *testing.T) {
	t.Parallel()
	const size = 64
	base := mount(t, size)
	a, cfg := newAuthority(t), newConfig(t)
	guard := cfg.Guard
	cfg.Guard = filepath.Join(base, "guard.json")
	copyFile(t, guard, cfg.Guard)
	l := open(t, cfg)
	submit(t, l, a, 3)
	remount(t, base, syscall.MS_RDONLY, size)
	_, err := l.Submit(t.Context(), a.submission(t))
	checkStorage(t, err, "read-only")
	remount(t, base, 0, size)
	waitForStorage(t, l, true)
	// The entry is in the log, and no client has its SCT; the guard advances beyond it.
	scts := submit(t, l, a, 1)
	if index := leafIndex(t, scts[0].Extensions); index != 4 {
		t.Errorf("the next entry is number %d, not 4", index)
	}
	shutdown(t, l)
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		reserve uint64
		says    string
	}{
		{"nearly full", 0, "free disk space left"},
		// Without the reserve Tessera itself fills the disk.
		{"full in the middle of a batch", 1, "full disk"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			base := mount(t, 48)
			a, cfg := newAuthority(t), newConfigIn(t, base)
			cfg.reserve = test.reserve
			l := open(t, cfg)
			submit(t, l, a, 3)
			waitForCheckpoint(t, l, 3)

			ballast := filepath.Join(base, "ballast")
			fill(t, ballast, base)
			if test.reserve == 0 {
				waitForStorage(t, l, false)
			}
			_, err := l.Submit(t.Context(), a.submission(t))
			if err == nil {
				t.Fatal("an SCT came from a full disk")
			}
			if test.reserve == 0 {
				checkStorage(t, err, test.says)
				checkStorage(t, l.Ready(), test.says)
			}
			t.Log(err)
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
