// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

// newGuard returns a guard in a new folder, and a function that writes a tree of the given size to it.
func newGuard(t *testing.T) (*guard, func(size uint64)) {
	t.Helper()
	g := &guard{path: filepath.Join(t.TempDir(), "guard.json")}
	file := guardFile{Origin: testOrigin, LogID: make([]byte, hashSize)}
	return g, func(size uint64) {
		t.Helper()
		next := file.at(reader.Head{Size: size, Root: [hashSize]byte{byte(size)}}, time.Unix(int64(size), 0))
		content, err := next.marshal()
		if err == nil {
			err = g.write(content)
		}
		if err != nil {
			t.Fatal(err)
		}
		g.newest.Store(next)
		hasGuard(t, g.path, size)
	}
}

func hasGuard(t *testing.T, path string, size uint64) {
	t.Helper()
	if f, err := readGuard(path, testOrigin, [32]byte{}); err != nil || f.TreeSize != size || f.head().Root[0] != byte(size) {
		t.Errorf("the guard has %s, want %d entries: %v", f.head(), size, err)
	}
}

// TestGuardWrite: an open log writes its guard in place, and replaces a file that it cannot write in place.
func TestGuardWrite(t *testing.T) {
	t.Parallel()
	g, move := newGuard(t)
	inode := func() os.FileInfo {
		info, err := os.Lstat(g.path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	move(1)
	first := inode()
	for size := range uint64(9) {
		move(size + 2)
	}
	if now := inode(); !os.SameFile(first, now) || now.Size() != 2*slotSize {
		t.Errorf("the guard became another file, of %d bytes", now.Size())
	}
	remove(t, g.path)
	move(20)
	move(21)

	other := filepath.Join(t.TempDir(), "other")
	write(t, other, []byte("not of this log"))
	remove(t, g.path)
	if err := os.Symlink(other, g.path); err != nil {
		t.Fatal(err)
	}
	move(30)
	if content, err := os.ReadFile(other); string(content) != "not of this log" || !inode().Mode().IsRegular() {
		t.Errorf("a link was followed: %q, %v", content, err)
	}

	g.settle()
	if content, err := os.ReadFile(g.path); err != nil || !bytes.HasSuffix(content, []byte("\n}\n")) || len(content) > 1000 {
		t.Errorf("the guard of a stopped log is %q, %v", content, err)
	}
	hasGuard(t, g.path, 30)
	move(31)
}

// TestGuardSurvivesTornWrite: wherever a write of a slot stops, also in the middle of its blocks, the guard has its tree or the
// tree before.
func TestGuardSurvivesTornWrite(t *testing.T) {
	t.Parallel()
	for _, size := range []uint64{8, 9} { // in each slot
		g, move := newGuard(t)
		for n := range size - 1 {
			move(n + 1)
		}
		before, err := os.ReadFile(g.path)
		if err != nil {
			t.Fatal(err)
		}
		move(size)
		after, err := os.ReadFile(g.path)
		if err != nil {
			t.Fatal(err)
		}
		for written := range 2 * slotSize {
			for _, torn := range [][]byte{slices.Concat(after[:written], before[written:]), slices.Concat(before[:written], after[written:])} {
				f, err := parseGuard(torn)
				if err != nil || f.TreeSize != size && f.TreeSize != size-1 || f.RootHash[0] != byte(f.TreeSize) {
					t.Fatalf("after %d bytes: %v, %v", written, f, err)
				}
			}
		}
		after[0]++
		after[slotSize]++
		if f, err := parseGuard(after); err == nil {
			t.Errorf("a guard with two damaged slots has %s", f.head())
		}
		if f, err := parseGuard(before[:slotSize]); err == nil {
			t.Errorf("half of a guard has %s", f.head())
		}
	}
}
