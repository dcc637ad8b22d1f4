// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"

	"github.com/mayfly-ca/mayfly/ctlog"
)

// waiting is an open log with one entry in Tessera, whose future stays open until release, as the
// real ones do after the appender's context has ended.
type waiting struct {
	*Log
	*authority
	release func()
	answer  <-chan error // of the entry's Submit
}

func newWaiting(t *testing.T, ctx context.Context, cfg Config) waiting {
	t.Helper()
	l, a := open(t, cfg), newAuthority(t)
	added, released, answer := make(chan struct{}, 16), make(chan struct{}), make(chan error, 1)
	release := sync.OnceFunc(func() { close(released) })
	t.Cleanup(release)
	add := l.add
	l.add = func(ctx context.Context, e *ctonly.Entry) tessera.IndexFuture {
		added <- struct{}{}
		return func() (tessera.Index, error) {
			<-released
			return add(ctx, e)()
		}
	}
	sub := a.submission(t)
	go func() {
		_, err := l.Submit(ctx, sub)
		answer <- err
	}()
	<-added
	return waiting{l, a, release, answer}
}

// A request that has gone leaves its entry in the queue, which is bounded. Shutdown waits for it.
func TestSubmitBoundsItsQueue(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cfg := newConfig(t)
	cfg.maxPending = 1
	l := newWaiting(t, ctx, cfg)
	cancel()
	if err := <-l.answer; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	_, err := l.Submit(t.Context(), l.submission(t))
	var retryable *ctlog.RetryableError
	if !errors.As(err, &retryable) || retryable.After == 0 || l.Status().Pending != 1 {
		t.Errorf("with %d pending entries: %v", l.Status().Pending, err)
	}
	l.release()
	shutdown(t, l.Log)
	if s := l.Status(); s.CheckpointSize != 1 {
		t.Errorf("status: %+v", s)
	}
}

// Tessera panics if it can open no file.
func TestFewFileDescriptors(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	cfg.spareFiles = 1 << 40
	l := open(t, cfg)
	_, err := l.Submit(t.Context(), a.submission(t))
	var retryable *ctlog.RetryableError
	if !errors.As(err, &retryable) || retryable.After == 0 || !errors.As(l.Ready(), &retryable) {
		t.Errorf("got %v, and readiness %v", err, l.Ready())
	}
}

func TestShutdownDrains(t *testing.T) {
	t.Parallel()
	cfg := newConfig(t)
	l := newWaiting(t, context.Background(), cfg)
	down := make(chan error)
	go func() { down <- l.Shutdown(context.Background()) }()
	// Once Shutdown has started, the log admits no new entry.
	for !l.closing.Load() {
	}
	if _, err := l.Submit(t.Context(), l.submission(t)); !errors.Is(err, errClosed) {
		t.Errorf("got %v", err)
	}
	l.release()
	if err := errors.Join(<-l.answer, <-down); err != nil {
		t.Error(err)
	}
	if s := l.Status(); s.CheckpointSize != 1 {
		t.Errorf("the checkpoint has %d entries", s.CheckpointSize)
	}
	if err := l.Ready(); !errors.Is(err, errClosed) {
		t.Errorf("a closed log is ready: %v", err)
	}
	shutdown(t, l.Log) // a second call does nothing
	shutdown(t, open(t, cfg))
}

func TestShutdownGivesUpInTime(t *testing.T) {
	t.Parallel()
	l := newWaiting(t, context.Background(), newConfig(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := <-l.answer; !errors.Is(err, errClosed) {
		t.Errorf("got %v", err)
	}
}

func TestSubmitRefusesOddSubmissions(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	l := open(t, cfg)
	good := a.submission(t)
	for name, edit := range map[string]func(*ctlog.Submission){
		"no chain":              func(s *ctlog.Submission) { s.Chain = nil },
		"no issuer":             func(s *ctlog.Submission) { s.Chain = s.Chain[:1] },
		"an endless chain":      func(s *ctlog.Submission) { s.Chain = make([][]byte, 3000) },
		"an empty certificate":  func(s *ctlog.Submission) { s.Chain = [][]byte{good.Chain[0], nil} },
		"a huge precertificate": func(s *ctlog.Submission) { s.Chain = [][]byte{make([]byte, 1<<24), good.Chain[1]} },
		"no TBS":                func(s *ctlog.Submission) { s.TBS = nil },
		"a huge TBS":            func(s *ctlog.Submission) { s.TBS = make([]byte, 1<<24) },
	} {
		sub := good
		edit(&sub)
		if _, err := l.Submit(t.Context(), sub); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if size := l.Status().TreeSize; size != 0 {
		t.Errorf("%d of them are in the log", size)
	}
}

// TestInterruptedBatchIsNotServed: a process that stops in a batch leaves tiles of a tree
// that never existed, under names that later trees may skip.
func TestInterruptedBatchIsNotServed(t *testing.T) {
	t.Parallel()
	a, cfg := newAuthority(t), newConfig(t)
	l := open(t, cfg)
	submit(t, l, a, 10)
	shutdown(t, l)
	for _, path := range []string{"tile/0/000.p/12", "tile/data/000.p/12", "tile/0/000", "tile/data/000", "tile/0/000.p/10123456", ".state/treeState98765"} {
		write(t, filepath.Join(cfg.Dir, path), []byte("of a tree that never was"))
	}
	l = open(t, cfg)
	url := serve(t, l)
	submit(t, l, a, 5)
	shutdown(t, l)
	source := tileClient(t, url)
	whole, err := source.ReadTile(t.Context(), 0, 0, 15)
	if err != nil {
		t.Fatal(err)
	}
	for width := 1; width <= 15; width++ {
		part, err := source.ReadTile(t.Context(), 0, 0, uint8(width))
		if err != nil || !bytes.Equal(part, whole[:width*sha256.Size]) {
			t.Errorf("the tile of width %d is not a part of the newest: %v", width, err)
		}
		data, err := source.ReadEntryBundle(t.Context(), 0, uint8(width))
		if err != nil {
			t.Fatal(err)
		}
		if hashes, err := bundleHashes(data); err != nil || len(hashes) != width || !bytes.Equal(bytes.Join(hashes, nil), part) {
			t.Errorf("the data tile of width %d has not the hashes of its tile: %v", width, err)
		}
	}
	for _, path := range []string{"/tile/0/000", "/tile/data/000", "/tile/0/000.p/16", "/tile/1/000.p/1"} {
		if status, _, _ := do(t, http.MethodGet, url+path, nil, nil); status != http.StatusNotFound {
			t.Errorf("%s: got %d, want 404", path, status)
		}
	}
	if _, err := Fsck(t.Context(), cfg); err != nil {
		t.Error(err)
	}
}

// TestIssuersAreBounded: the issuers in memory stay within maxIssuers, also where the disk has
// more.
func TestIssuersAreBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, issuerDir), 0o755); err != nil {
		t.Fatal(err)
	}
	s := newIssuers(dir)
	fingerprints, err := s.put([][]byte{{1}})
	if err != nil {
		t.Fatal(err)
	}
	full := newIssuers(dir)
	for i := range maxIssuers {
		full.known[[32]byte{1, byte(i), byte(i >> 8)}] = []byte{0}
	}
	if der, err := full.get(fingerprints[0]); err != nil || len(der) != 1 {
		t.Errorf("an issuer that is on the disk: %x, %v", der, err)
	}
	if _, err := full.put([][]byte{{2}}); err == nil {
		t.Error("an issuer too many is accepted")
	}
	if len(full.known) != maxIssuers {
		t.Errorf("%d issuers are in memory; at most %d are expected", len(full.known), maxIssuers)
	}
}
