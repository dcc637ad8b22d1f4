// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

// find returns the numbers of the entries with a name, and how many batches the search read.
func find(t *testing.T, cfg Config, identity string) (found []uint64, batches int, warning error) {
	t.Helper()
	source, err := Source(cfg)
	if err != nil {
		t.Fatal(err)
	}
	q := reader.Query{Identity: identity, Unindexed: func(err error) { warning = err }}
	q.Progress = func(uint64, uint64) { batches++ }
	for e, err := range source.Search(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, e.Index)
	}
	return found, batches, warning
}

// TestSearchIndex: the first search of a full segment writes its index, beside a log in use.
func TestSearchIndex(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	l, numbered := open(t, cfg), a.numbered(t)
	grow := func(from, to int) {
		t.Helper()
		for first := from; first < to; first += maxBatch {
			var batch []ctlog.Submission
			for i := first; i < min(first+maxBatch, to); i++ {
				batch = append(batch, numbered(i%5000))
			}
			submitAll(t, l, batch)
		}
	}
	check := func(step string, want []uint64, wantBatches int) {
		t.Helper()
		found, batches, warning := find(t, cfg, "user-0000017@example.com")
		if len(found) != len(want) || batches != wantBatches || warning != nil {
			t.Errorf("%s: found %v in %d batches, %v", step, found, batches, warning)
		}
	}
	grow(0, reader.Segment-1)
	check("before a segment is full", []uint64{17}, 16)
	if _, err := os.Stat(filepath.Join(cfg.Dir, indexDir)); err == nil {
		t.Error("an index was written")
	}
	grow(reader.Segment-1, 5020)
	check("first", []uint64{5017, 17}, 16+4)
	check("second", []uint64{5017, 17}, 1+4)
	shutdown(t, l)
	if n, err := Fsck(t.Context(), cfg); err != nil || n != 5020 {
		t.Errorf("fsck: %d, %v", n, err)
	}
	l = open(t, cfg)
	check("after a restart", []uint64{5017, 17}, 1+4)

	// A file of another log, or one that was cut short, is not used and is written again.
	name := filepath.Join(cfg.Dir, indexDir, "0")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, good[:len(good)/2], slices.Concat(good[:30], []byte{1}, good[31:])} {
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprintf("%d bytes", len(bad)), []uint64{5017, 17}, 16+4)
		if again, err := os.ReadFile(name); err != nil || !slices.Equal(again, good) {
			t.Errorf("the file is not repaired: %v", err)
		}
	}
}

// TestSearchWithoutItsIndex: where the index cannot be written, a search finds the same and states why.
func TestSearchWithoutItsIndex(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	l, numbered := open(t, cfg), a.numbered(t)
	var all []ctlog.Submission
	for i := range reader.Segment {
		all = append(all, numbered(i))
	}
	submitAll(t, l, all)
	shutdown(t, l)
	outside := t.TempDir()
	for name, change := range map[string]func(dir string) error{
		"a file in its place":         func(dir string) error { return os.WriteFile(dir, nil, 0o600) },
		"a link out of the directory": func(dir string) error { return os.Symlink(outside, dir) },
	} {
		dir := filepath.Join(cfg.Dir, indexDir)
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		if found, batches, warning := find(t, cfg, "user-0000017@example.com"); len(found) != 1 || batches != 16 || warning == nil {
			t.Errorf("%s: found %v in %d batches, %v", name, found, batches, warning)
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	if files := names(t, outside); len(files) != 0 {
		t.Errorf("a search wrote %v outside the log's directory", files)
	}
}
