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
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"
	"github.com/transparency-dev/tessera/storage/posix"
	"k8s.io/klog/v2"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
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

	// The reads over HTTP show the tree of the published checkpoint, and nothing beyond it.
	replays     *replays
	verified    atomic.Pointer[reader.Checkpoint] // the newest one that was read
	compressors chan *gzip.Writer                 // the idle ones; without one, the log sends a tile uncompressed
	kept        keptTiles                         // for proofs

	// places holds an element for each entry that waits to be stored. Shutdown fills it, and so waits
	// for them.
	places  chan struct{}
	closing atomic.Bool
	closed  chan struct{} // closed when Tessera has been stopped
}

var _ ctlog.Log = (*Log)(nil)

// newLog returns a log that does nothing yet.
func newLog(cfg Config, key *logKey) *Log {
	l := &Log{
		cfg: cfg, key: key, directory: directory{cfg.Dir}, issuers: newIssuers(cfg.Dir), logger: cfg.Logger.With(slog.String("log", cfg.Name)),
		places: make(chan struct{}, cfg.maxPending), closed: make(chan struct{}),
		replays: newReplays(maxReplays), compressors: make(chan *gzip.Writer, maxCompressors),
	}
	l.metrics = newMetrics(cfg.Registerer, cfg.Name)
	l.failures = breaker.Sparing{Logger: l.logger, Interval: 10 * time.Second}
	l.guard = &guard{directory: l.directory, path: cfg.Guard, now: cfg.Now, observe: func(d time.Duration) { l.metrics.guard.Observe(d.Seconds()) }}
	for range maxCompressors {
		z, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // fails for an unknown level only
		l.compressors <- z
	}
	return l
}

// Open opens a log that Init created, until Shutdown; ctx is for opening only. Errors for settings
// have key paths such as ["dir"]; *LockedError and *StorageError report the state of the machine.
//
// Open also opens a log that must not sign: it serves what it published, refuses every submission
// with *RefusedError, and reports the refusal in Status.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	cfg, key, free, err := cfg.openable()
	if err != nil {
		return nil, err
	}
	l := newLog(cfg, key)
	l.storage.Store(&storage{free: free})
	background, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	if err = l.lock(); err == nil {
		err = l.start(ctx, background)
	}
	if err != nil {
		l.cancel() // Tessera may run already
		return nil, errors.Join(explain(cfg.Dir, err), l.unlock())
	}
	return l, nil
}

// start checks the directory against the guard and hands it to Tessera, or refuses to sign. Its
// error is temporary, or is a wrong setting.
func (l *Log) start(ctx, background context.Context) error {
	s, err := l.cfg.examine(l.key)
	l.guard.newest.Store(s.guard)
	if err == nil {
		l.signedSize, l.lastTimestamp = s.published.Head.Size, s.published.Timestamp
		err = l.guard.admit(s.head)
	}
	if l.refuse(ctx, err) != nil {
		return nil
	}
	if err != nil {
		return err
	}
	_ = l.checkStorage() // a full disk may have room later
	go l.watchStorage(background)
	appender, finish, err := l.newAppender(background, tessera.NewAppendOptions().
		WithBatching(maxBatch, l.cfg.BatchAge).
		WithCheckpointInterval(l.cfg.CheckpointInterval).
		WithCheckpointRepublishInterval(max(republishInterval, l.cfg.CheckpointInterval)).
		WithGarbageCollectionInterval(collectInterval))
	if err != nil {
		return fmt.Errorf("opening log %s: %w", l.cfg.Name, err)
	}
	l.add, l.finish = tessera.NewCertificateTransparencyAppender(appender), finish
	return nil
}

func (l *Log) newAppender(ctx context.Context, options *tessera.AppendOptions) (*tessera.Appender, func(context.Context) error, error) {
	driver, err := posix.New(ctx, posix.Config{Path: l.cfg.Dir})
	if err != nil {
		return nil, nil, err
	}
	appender, finish, _, err := tessera.NewAppender(ctx, driver, options.WithCTLayout().WithCheckpointSigner(noteSigner{l.verifier(), l}))
	return appender, finish, err
}

// RouteTesseraLogs sends Tessera's log lines, for the whole process, to logger instead of standard
// error. Package main calls it, once, before the first log is opened.
func RouteTesseraLogs(logger *slog.Logger) { klog.SetSlogLogger(logger) }

// Name returns the log's name in the configuration.
func (l *Log) Name() string { return l.cfg.Name }

// Dir returns the log's directory.
func (l *Log) Dir() string { return l.cfg.Dir }

// PublicKey returns the log's public key, PEM, as ctlog.LogConfig takes it.
func (l *Log) PublicKey() []byte { return l.key.PEM() }

func (l *Log) verifier() reader.NoteVerifier {
	return reader.NoteVerifier{Origin: l.cfg.Origin, Key: l.key.PublicKey}
}

// admitCheckpoint decides whether Tessera may publish a tree head. It returns the current time, but
// always later than that of the checkpoint before (RFC 6962, section 3.5).
func (l *Log) admitCheckpoint(head reader.Head) (timestamp uint64, err error) {
	l.signMu.Lock()
	defer l.signMu.Unlock()
	refusal := l.refusal.Load()
	switch {
	case refusal != nil:
	case head.Size < l.signedSize:
		err = fmt.Errorf("%w: it has %d entries, and the last checkpoint %d", errOlder, head.Size, l.signedSize)
	default:
		err = l.guard.admit(head)
	}
	ctx := context.Background()
	if refusal = cmp.Or(refusal, l.refuse(ctx, err)); refusal != nil {
		err = refusal
	}
	if err != nil {
		l.signError.Store(&err)
		l.failures.Log(ctx, slog.LevelError, "publishing no checkpoint", slog.Any("error", err))
		return 0, err
	}
	l.signError.Store(nil)
	l.signedSize, l.lastTimestamp = head.Size, max(milliseconds(l.cfg.Now()), l.lastTimestamp+1)
	l.metrics.size.Set(float64(head.Size))
	return l.lastTimestamp, nil
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
// then it cancels Tessera's work and releases the locks. If ctx ends first, it waits no longer:
// pending entries may be lost, but no submitter has an SCT for them. The Handler continues to
// serve what is published. A second call does nothing.
func (l *Log) Shutdown(ctx context.Context) (err error) {
	if l.closing.Swap(true) {
		return nil
	}
	for range cap(l.places) {
		select {
		case l.places <- struct{}{}:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	// A log that refuses to sign publishes nothing: the wait would never end.
	if err == nil && l.finish != nil && l.refusal.Load() == nil {
		err = l.finish(ctx)
	}
	l.cancel()
	close(l.closed)
	l.guard.settle()
	if err != nil {
		err = fmt.Errorf("shutting log %s down: %w", l.cfg.Name, err)
	}
	return errors.Join(err, l.unlock())
}

// Ready returns nil if the log can accept an entry. The error is for the operator.
func (l *Log) Ready() error {
	err, signError := l.usable(), l.signError.Load()
	if err == nil && signError != nil {
		err = fmt.Errorf("log %s publishes no checkpoint: %w", l.cfg.Name, *signError)
	}
	return err
}

// Status returns what Ready returns, and more.
func (l *Log) Status() Status {
	published, _ := l.checkpoint() // Ready reports an unreadable one, or fsck
	s := l.cfg.status(l.key, state{published: published, head: l.guard.newest.Load().head()})
	s.Pending, s.FreeBytes, s.Err = len(l.places), l.storage.Load().free, l.Ready()
	return s
}
