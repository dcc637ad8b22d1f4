// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Copies of a log under load are whole, continue each other, and are never signed for.
func TestCopyOfALogInUse(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	l := open(t, cfg)
	submit(t, l, a, 250)
	var load sync.WaitGroup
	load.Go(func() { submit(t, l, a, 600) })
	to := cfg
	to.Dir, to.Guard = filepath.Join(t.TempDir(), "copy"), filepath.Join(t.TempDir(), "guard.json")
	last := uint64(0)
	for range 5 {
		size, err := Copy(t.Context(), cfg, to.Dir)
		if err != nil || size < max(last, 250) {
			t.Fatalf("a copy of %d entries after one of %d: %v", size, last, err)
		}
		last = size
	}
	load.Wait()
	if size, err := Copy(t.Context(), cfg, to.Dir); err != nil || size != 850 {
		t.Fatalf("the last copy has %d entries: %v", size, err)
	}
	// Without a guard it is refused; with the guard of the moment it is the log.
	var refusal *RefusedError
	if _, refused, err := Check(t.Context(), to); err != nil || !errors.As(refused, &refusal) || refusal.Reason != ReasonGuard {
		t.Errorf("the copy without a guard: %v, %v", refused, err)
	}
	if size, err := Copy(t.Context(), to, filepath.Join(t.TempDir(), "again")); err != nil || size != 850 {
		t.Errorf("a copy of the copy has %d entries: %v", size, err)
	}
	copyFile(t, cfg.Guard, to.Guard)
	if n, err := Fsck(t.Context(), to); err != nil || n != 850 {
		t.Errorf("fsck of the copy with the guard: %d entries, %v", n, err)
	}
	// An older copy is refused with the newest guard.
	submit(t, l, a, 10)
	copyFile(t, cfg.Guard, to.Guard)
	if _, refused, err := Check(t.Context(), to); err != nil || !errors.As(refused, &refusal) || refusal.Reason != ReasonOlder {
		t.Errorf("an older copy with the newest guard: %v, %v", refused, err)
	}
}

// A log without entries is copied whole: where its guard is moved along, it takes the first one.
func TestCopyOfAnEmptyLog(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	to := cfg
	to.Dir = filepath.Join(t.TempDir(), "copy")
	if size, err := Copy(t.Context(), cfg, to.Dir); err != nil || size != 0 {
		t.Fatalf("the copy has %d entries: %v", size, err)
	}
	submit(t, open(t, to), a, 1)
}

// Copy proves what it has written, and refuses what is no copy of this log.
func TestCopyFindsDamage(t *testing.T) {
	t.Parallel()
	_, cfg, a := published(t, 520)
	to := filepath.Join(t.TempDir(), "copy")
	if _, err := Copy(t.Context(), cfg, filepath.Join(cfg.Dir, "copy")); err == nil {
		t.Error("a copy inside the log's directory is accepted")
	}
	if _, err := Copy(t.Context(), cfg, to); err != nil {
		t.Fatal(err)
	}
	flip(t, filepath.Join(to, "tile/data/000"), 21)
	if _, err := Copy(t.Context(), cfg, to); !errors.Is(err, errDamaged) {
		t.Errorf("a full tile of an earlier copy is damaged: %v", err)
	}
	other := newConfig(t)
	l := open(t, other)
	submit(t, l, a, 300)
	shutdown(t, l)
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(t.Context(), other, to); err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(t.Context(), cfg, to); !errors.Is(err, errDamaged) {
		t.Errorf("a copy over that of another log: %v", err)
	}
	flip(t, filepath.Join(cfg.Dir, "tile/data/001"), 21)
	if _, err := Copy(t.Context(), cfg, filepath.Join(t.TempDir(), "next")); !errors.Is(err, errDamaged) {
		t.Errorf("a copy of a damaged log: %v", err)
	}
}

// The copy has what its checkpoint covers, beside entries that no checkpoint covers yet.
func TestCopyServesItsCheckpoint(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	l := open(t, cfg)
	submit(t, l, a, 3)
	shutdown(t, l)
	cfg.CheckpointInterval = maxCheckpointInterval
	growUnpublished(t, a, cfg)
	to := cfg
	to.Dir = filepath.Join(t.TempDir(), "copy")
	size, err := Copy(t.Context(), cfg, to.Dir)
	if err != nil {
		t.Fatal(err)
	}
	copied := directory{to.Dir}
	published, err := copied.checkpoint(l.verifier(), nil)
	if err != nil || published.Head.Size == 0 || published.Head.Size >= size {
		t.Fatalf("%d entries are copied, the checkpoint is %+v: %v", size, published, err)
	}
	if head, err := copied.root(published.Head.Size); err != nil || head != published.Head {
		t.Errorf("the tree of the checkpoint: %v", err)
	}
}
