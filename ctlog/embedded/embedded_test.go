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

	"github.com/mayfly-ca/mayfly/ctlog"
)

func TestSubmit(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	l := open(t, cfg)
	key, err := ctlog.ParsePublicKey(l.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	if key.LogID() != l.key.LogID() || l.Name() != "2026" {
		t.Errorf("%s %x", l.Name(), l.key.LogID())
	}
	for i := range 3 {
		sub := a.submission(t)
		sct, err := l.Submit(t.Context(), sub)
		if err != nil {
			t.Fatal(err)
		}
		if err := key.Verify(sct, sub, time.Now()); err != nil {
			t.Error(err)
		}
		if index := leafIndex(t, sct.Extensions); index != uint64(i) {
			t.Errorf("entry %d has index %d", i, index)
		}
		// The guard covers the entry before the SCT is returned.
		if g, err := readGuard(cfg.Guard, cfg.Origin, l.key.LogID()); err != nil || g.TreeSize != uint64(i)+1 {
			t.Errorf("the guard has %d entries: %v", g.TreeSize, err)
		}
	}
	if err := l.Ready(); err != nil {
		t.Error(err)
	}
	shutdown(t, l)
	l = open(t, cfg)
	submit(t, l, a, 600)
	shutdown(t, l)
	if n, err := Fsck(t.Context(), cfg); err != nil || n != 603 {
		t.Errorf("fsck: %d entries, %v", n, err)
	}
	in, err := Inspect(t.Context(), cfg)
	if err != nil || in.Err != nil || in.TreeSize != 603 || in.CheckpointSize != 603 || in.GuardSize != 603 || in.CheckpointTime.IsZero() || in.GuardTime.IsZero() || in.FreeBytes == 0 {
		t.Errorf("inspecting: %+v, %v", in, err)
	}
	if len(in.Warnings) != 1 || !strings.Contains(in.Warnings[0], "on the same disk") {
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
	g.newest.Store((&guardFile{Origin: cfg.Origin, LogID: make([]byte, 32)}).at(emptyTree(), time.Now()))
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
	try := func(head treeHead) error {
		_, err := l.tryCheckpoint(head)
		return err
	}
	if err := errors.Join(try(older), try(l.guard.newest.Load().head())); err != nil {
		t.Error(err)
	}
	checkRefusal(t, refusalFor("2026", try(older)), ReasonOlder) // than the last checkpoint
	forged := older
	forged.root[0] ^= 1
	l.signedSize = 0
	checkRefusal(t, refusalFor("2026", try(forged)), ReasonForked)
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
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			key := family.GetName()
			for _, label := range m.GetLabel() {
				key += " " + label.GetValue()
			}
			got[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for key, want := range map[string]float64{
		"mayfly_ctlog_adds_total 2025 stored": 2, "mayfly_ctlog_adds_total 2026 stored": 2, "mayfly_ctlog_adds_total 2026 failed": 0,
		"mayfly_ctlog_checkpoint_size 2026": 2, "mayfly_ctlog_refused 2026": 0,
	} {
		if value, ok := got[key]; !ok || value != want {
			t.Errorf("%s is %v, want %v", key, value, want)
		}
	}
}
