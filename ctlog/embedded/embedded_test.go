// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

func TestSubmit(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	l := open(t, cfg)
	for i := range uint64(3) {
		sub := a.submission(t)
		sct, err := l.Submit(t.Context(), sub)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.key.Verify(sct, sub, time.Now()); err != nil {
			t.Error(err)
		}
		// The guard covers the entry before the SCT is returned.
		if g, err := readGuard(cfg.Guard, cfg.Origin, l.key.LogID()); err != nil || g.TreeSize != i+1 || leafIndex(t, sct.Extensions) != i {
			t.Errorf("the guard has %d entries after entry %x: %v", g.TreeSize, sct.Extensions, err)
		}
	}
	shutdown(t, l)
	l = open(t, cfg)
	submit(t, l, a, 600)
	if err := l.Ready(); err != nil {
		t.Error(err)
	}
	shutdown(t, l)
	if n, err := Fsck(t.Context(), cfg); err != nil || n != 603 {
		t.Errorf("fsck: %d entries, %v", n, err)
	}
	in, err := Inspect(t.Context(), cfg)
	if err != nil || in.Err != nil || in.TreeSize != 603 || in.CheckpointSize != 603 || in.GuardSize != 603 || in.CheckpointTime.IsZero() || in.GuardTime.IsZero() || in.FreeBytes == 0 {
		t.Errorf("inspecting: %+v, %v", in, err)
	}
	if len(in.Warnings) != 1 { // the guard is on the same disk
		t.Errorf("warnings: %v", in.Warnings)
	}
}

// TestOneMoveForABatch: all submitters of a batch wait for the same fsync.
func TestOneMoveForABatch(t *testing.T) {
	t.Parallel()
	const entries = 64
	a, cfg := newAuthority(t), newConfig(t)
	l := open(t, cfg)
	submit(t, l, a, entries)
	var moves atomic.Int64
	g := &guard{directory: l.directory, path: filepath.Join(t.TempDir(), "guard.json"), now: time.Now, observe: func(time.Duration) { moves.Add(1) }}
	g.newest.Store((&guardFile{Origin: cfg.Origin, LogID: make([]byte, 32)}).at(reader.EmptyTree(), time.Now()))
	var all sync.WaitGroup
	for i := range entries {
		all.Go(func() {
			if err := g.cover(uint64(i) + 1); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := moves.Load(); n != 1 {
		t.Errorf("the guard moved %d times", n)
	}
	if g, err := readGuard(g.path, cfg.Origin, [32]byte{}); err != nil || g.head() != l.guard.newest.Load().head() {
		t.Errorf("the guard says %s: %v", g.head(), err)
	}
}

// TestOvertakenCheckpoint: the log may sign a tree head that Tessera read before the guard
// advanced, if it is of the same history and no checkpoint is newer.
func TestOvertakenCheckpoint(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	cfg.CheckpointInterval = maxCheckpointInterval
	l := openSpoilt(t, cfg)
	submit(t, l, a, 10)
	older := l.guard.newest.Load().head()
	submit(t, l, a, 10)
	try := func(head reader.Head) error {
		l.refusal.Store(nil)
		_, err := l.admitCheckpoint(head)
		return err
	}
	if err := errors.Join(try(older), try(l.guard.newest.Load().head())); err != nil {
		t.Error(err)
	}
	checkRefusal(t, try(older), ReasonOlder) // than the last checkpoint
	forged := older
	forged.Root[0] ^= 1
	l.signedSize = 0
	checkRefusal(t, try(forged), ReasonForked)
	l.finish = nil // do not wait for the checkpoint
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	a := newAuthority(t)
	for _, name := range []string{"2025", "2026"} {
		cfg := newConfig(t)
		cfg.Name, cfg.Registerer = name, registry
		l := open(t, cfg)
		submit(t, l, a, 2)
		shutdown(t, l)
	}
	want := strings.NewReader(`# HELP mayfly_ctlog_adds_total Entries submitted to an embedded log, by log and result (stored, failed).
# TYPE mayfly_ctlog_adds_total counter
mayfly_ctlog_adds_total{log="2025",result="failed"} 0
mayfly_ctlog_adds_total{log="2025",result="stored"} 2
mayfly_ctlog_adds_total{log="2026",result="failed"} 0
mayfly_ctlog_adds_total{log="2026",result="stored"} 2
`)
	if err := testutil.GatherAndCompare(registry, want, "mayfly_ctlog_adds_total"); err != nil {
		t.Error(err)
	}
}
