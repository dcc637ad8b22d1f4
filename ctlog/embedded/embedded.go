// SPDX-License-Identifier: Apache-2.0

// Package embedded is a Certificate Transparency log in this process: a static-ct-api log
// (https://c2sp.org/static-ct-api) that also serves the reads of RFC 6962. Tessera's POSIX
// driver stores it in one directory of a local disk.
//
// It guarantees three things. It gives an SCT only for an entry that is durably stored in a
// tree that continues everything signed before. It refuses a directory that is older than
// what was signed, or has another history: see guard. Only Init creates a log.
//
// Package app opens it and mounts its Handler; cmd uses Init, Inspect, Fsck and Search.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/sync/semaphore"
	"k8s.io/klog/v2"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/breaker"
)

// Log is a log that is open for writing. It implements ctlog.Log, and is safe for concurrent
// use.
type Log struct {
	cfg       Config
	key       *logKey
	directory directory
	issuers   *issuers
	guard     *guard
	locks     []*os.File
	front     *front
	logger    *slog.Logger
	failures  breaker.Sparing
	metrics   *metrics

	storage   atomic.Pointer[storage]      // the last check
	refusal   atomic.Pointer[RefusedError] // set once
	signError atomic.Pointer[error]        // why the last signing of a checkpoint failed; nil if it succeeded

	// Under signMu: the content of the newest checkpoint.
	signMu        sync.Mutex
	signedSize    uint64
	lastTimestamp uint64

	// add and finish are Tessera's; nil for a log that has refused to sign from the start.
	add    func(context.Context, *ctonly.Entry) tessera.IndexFuture
	finish func(context.Context) error
	cancel context.CancelFunc // of the work in the background

	// places are those of entries that wait to be stored. Shutdown takes all, and so waits for them.
	places  *semaphore.Weighted
	queued  atomic.Int64
	closing atomic.Bool
	stop    sync.Once
	closed  chan struct{} // closed when Tessera has been stopped
}

var _ ctlog.Log = (*Log)(nil)

// Open opens a log that Init created. Errors for settings have key paths such as ["dir"];
// *LockedError and *StorageError report the state of the machine.
//
// Open also opens a log if its directory is damaged, older than its guard or of another
// history: the log serves what it published, refuses every submission with *RefusedError, and
// reports the refusal in Status.
//
// The log runs until Shutdown; ctx is for opening only.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	cfg, key, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	f, err := cfg.checkStorage()
	if err != nil {
		return nil, err
	}
	l := &Log{
		cfg: cfg, key: key, directory: directory{cfg.Dir}, issuers: newIssuers(cfg.Dir),
		logger: cfg.Logger.With(slog.String("log", cfg.Name)), places: semaphore.NewWeighted(int64(cfg.MaxPending)), closed: make(chan struct{}),
	}
	if l.metrics, err = newMetrics(cfg.Registerer, cfg.Name); err != nil {
		return nil, err
	}
	l.failures = breaker.Sparing{Logger: l.logger, Interval: 10 * time.Second}
	l.guard = &guard{directory: l.directory, path: cfg.Guard, now: cfg.Now, observe: func(d time.Duration) { l.metrics.guard.Observe(d.Seconds()) }}
	l.front = newFront(l)
	l.storage.Store(&storage{free: f.free})
	if f.volatile {
		l.logger.WarnContext(ctx, "the log will be lost when the machine restarts: it is stored in memory")
	}
	background, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	err = l.lock()
	if err == nil {
		err = l.start(ctx, background)
	}
	if err == nil {
		err = l.issuers.sweep()
	}
	if err != nil {
		l.cancel() // Tessera may run already
		return nil, errors.Join(explain(cfg.Dir, err), l.unlock())
	}
	return l, nil
}

// start checks the directory against the guard and hands it to Tessera, or refuses to sign. An
// error that it returns is temporary, or is a wrong setting. Tessera's work in the background stops
// with the context background, after Shutdown has drained it.
func (l *Log) start(ctx, background context.Context) error {
	s, err := l.cfg.examine(ctx, l.key)
	newest := treeHead{}
	if s.guard.Origin != "" {
		newest = s.guard.head()
	}
	l.guard.file = s.guard
	l.guard.newest.Store(&newest)
	if err == nil {
		l.signedSize, l.lastTimestamp = s.published.head.size, s.published.timestamp
		err = l.guard.admit(ctx, s.head)
	}
	if l.refuse(ctx, err) != nil {
		return nil
	}
	if err != nil {
		return err
	}
	_ = l.checkStorage() // a full disk may have room later
	go l.watchStorage(background)
	// No other part of this process holds a lock of Tessera's yet.
	if _, err := l.tryOpen(treeStateLock); err != nil {
		return err
	}
	driver, err := posix.New(background, posix.Config{Path: l.cfg.Dir})
	if err != nil {
		return fmt.Errorf("opening log %s: %w", l.cfg.Name, err)
	}
	options := tessera.NewAppendOptions().
		WithCTLayout().
		WithCheckpointSigner(noteSigner{l.verifier(), l.key, l.admitCheckpoint, l.nextTimestamp}).
		WithBatching(maxBatch, l.cfg.BatchAge).
		WithCheckpointInterval(l.cfg.CheckpointInterval).
		WithCheckpointRepublishInterval(max(republishInterval, l.cfg.CheckpointInterval)).
		WithGarbageCollectionInterval(collectInterval)
	appender, finish, _, err := tessera.NewAppender(background, driver, options)
	if err != nil {
		return fmt.Errorf("opening log %s: %w", l.cfg.Name, err)
	}
	l.add, l.finish = tessera.NewCertificateTransparencyAppender(appender), finish
	return nil
}

// RouteTesseraLogs sends Tessera's log lines, for the whole process, to logger instead of
// standard error. This package reports most of it better: level Warn suffices for logger.
// Package main calls it, once, before the first log is opened.
func RouteTesseraLogs(logger *slog.Logger) { klog.SetSlogLogger(logger) }

// Name returns the log's name in the configuration.
func (l *Log) Name() string { return l.cfg.Name }

// PublicKey returns the log's public key, PEM, as ctlog.LogConfig takes it.
func (l *Log) PublicKey() []byte { return l.key.PEM() }

func (l *Log) verifier() noteVerifier { return noteVerifier{l.cfg.Origin, l.key.PublicKey} }

// admitCheckpoint decides whether Tessera may publish a tree head.
func (l *Log) admitCheckpoint(head treeHead) error {
	ctx := context.Background()
	err := l.tryCheckpoint(ctx, head)
	if refusal := l.refuse(ctx, err); refusal != nil {
		err = refusal
	}
	if err == nil {
		l.signError.Store(nil)
		return nil
	}
	l.signError.Store(&err)
	l.failures.Log(ctx, slog.LevelError, "publishing no checkpoint", slog.Any("error", err))
	return err
}

func (l *Log) tryCheckpoint(ctx context.Context, head treeHead) error {
	if refusal := l.refusal.Load(); refusal != nil {
		return refusal
	}
	l.signMu.Lock()
	defer l.signMu.Unlock()
	if head.size < l.signedSize {
		return fmt.Errorf("%w: it has %d entries, and the last checkpoint %d", errOlder, head.size, l.signedSize)
	}
	if err := l.guard.admit(ctx, head); err != nil {
		return err
	}
	l.signedSize = head.size
	l.metrics.size.Set(float64(head.size))
	return nil
}

// nextTimestamp returns the current time, but always later than the one before (RFC 6962,
// section 3.5).
func (l *Log) nextTimestamp() uint64 {
	l.signMu.Lock()
	defer l.signMu.Unlock()
	l.lastTimestamp = max(milliseconds(l.cfg.Now()), l.lastTimestamp+1)
	return l.lastTimestamp
}

// milliseconds returns a time as RFC 6962 has it.
func milliseconds(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) }

// refuse stops all signing if err is permanent, and returns the reason. It returns nil for
// any other error.
func (l *Log) refuse(ctx context.Context, err error) *RefusedError {
	refusal := refusalFor(l.cfg.Name, err)
	if refusal == nil {
		return nil
	}
	if l.refusal.CompareAndSwap(nil, refusal) {
		l.metrics.refused.Set(1)
		l.logger.ErrorContext(ctx, "the log refuses to sign", slog.String("reason", string(refusal.Reason)), slog.Any("error", refusal))
	}
	return l.refusal.Load()
}

// Shutdown stops the log in an order that loses nothing: it admits no new entries; the
// pending ones are stored and get their SCTs; it publishes a checkpoint that covers them all;
// then it cancels Tessera's work and releases the locks. If ctx ends first, it does the rest
// without waiting: pending entries may be lost, but no submitter has an SCT for them.
//
// The Handler continues to serve what is published.
func (l *Log) Shutdown(ctx context.Context) (err error) {
	l.stop.Do(func() {
		l.closing.Store(true)
		err = l.places.Acquire(ctx, int64(l.cfg.MaxPending))
		// A log that refuses to sign publishes nothing: the wait would never end.
		if err == nil && l.finish != nil && l.refusal.Load() == nil {
			err = l.finish(ctx)
		}
		l.cancel()
		close(l.closed)
		if err != nil {
			err = fmt.Errorf("shutting log %s down: %w", l.cfg.Name, err)
		}
		err = errors.Join(err, l.unlock())
	})
	return err
}

// Ready returns nil if the log can accept an entry. The error is for the operator.
func (l *Log) Ready() error {
	err, signError := l.usable(), l.signError.Load()
	if err == nil && signError != nil {
		err = fmt.Errorf("log %s publishes no checkpoint: %w", l.cfg.Name, *signError)
	}
	return err
}

// Status is the state of a log.
type Status struct {
	Name   string `json:"name"`
	Origin string `json:"origin"`
	LogID  []byte `json:"log_id"`
	// TreeSize and RootHash are of the newest tree for which the log may sign; an Inspection
	// has those of the directory, even if they are refused.
	TreeSize uint64 `json:"tree_size"`
	RootHash []byte `json:"root_hash"`
	// CheckpointSize and CheckpointTime are of the published checkpoint.
	CheckpointSize uint64    `json:"checkpoint_size"`
	CheckpointTime time.Time `json:"checkpoint_time"`
	// Pending is how many entries wait to be stored.
	Pending int `json:"pending"`
	// FreeBytes is the free space on the disk.
	FreeBytes uint64 `json:"free_bytes"`
	// Err states why the log accepts no entry now, and what to do: *RefusedError,
	// *StorageError or another. It is nil if the log is ready.
	Err error `json:"-"`
}

// Status returns what Ready returns, and more.
func (l *Log) Status() Status {
	published, _ := l.front.checkpoint() // Ready reports an unreadable one, or fsck
	s := l.cfg.status(l.key, state{published: published, head: *l.guard.newest.Load()})
	s.Pending, s.FreeBytes, s.Err = int(l.queued.Load()), l.storage.Load().free, l.Ready()
	return s
}
