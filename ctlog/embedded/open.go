// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// checkStorage refuses filesystems that are unsafe for a log.
func (l *Log) checkStorage(ctx context.Context, cfg Config) error {
	var errs []error
	for _, path := range []string{cfg.Dir, filepath.Dir(cfg.Guard)} {
		f, err := statFilesystem(path)
		if err == nil {
			err = checkFilesystem(path, f)
		}
		if err != nil {
			errs = append(errs, err)
		} else if f.volatile {
			l.logger.WarnContext(ctx, "the log will be lost when the machine restarts: it lives in memory", slog.String("path", path))
		}
	}
	return errors.Join(errs...)
}

// lock locks the directory and the guard: two copies of a directory may share a guard, and
// would otherwise fork.
func (l *Log) lock(cfg Config) error {
	for _, it := range []struct{ path, subject string }{
		{filepath.Join(cfg.Dir, lockFile), cfg.Dir},
		{cfg.Guard + ".lock", cfg.Guard},
	} {
		lock, err := acquire(it.path, it.subject, l.now())
		if err != nil {
			return errors.Join(fmt.Errorf("opening log %s: %w", cfg.Name, err), l.unlock())
		}
		l.locks = append(l.locks, lock)
	}
	return nil
}

func (l *Log) unlock() error {
	var errs []error
	for _, lock := range l.locks {
		errs = append(errs, lock.release())
	}
	l.locks = nil
	return errors.Join(errs...)
}

// resume checks the directory against the guard and starts Tessera, or refuses. An error that
// it returns is temporary, or is a wrong setting.
func (l *Log) resume(ctx context.Context, cfg Config) error {
	file, guardErr := readGuard(cfg.Guard, l.origin, l.key.id)
	published, err := l.published()
	if err == nil {
		l.signedSize, l.lastTimestamp = published.head.size, published.timestamp
	}
	switch {
	case errors.Is(guardErr, errOtherLog) && err != nil:
		return otherLog(cfg, guardErr)
	case guardErr != nil:
		err = &RefusedError{Log: l.name, Reason: ReasonGuard, Err: guardErr}
	case err == nil:
		err = l.check(ctx, file, published)
	}
	if err != nil {
		if l.refuse(ctx, err) == nil {
			return err
		}
		l.guard.newest.CompareAndSwap(nil, &treeHead{})
		return nil
	}
	return l.start(cfg)
}

// otherLog is the error for a directory and a guard that both are not of this key's log.
func otherLog(cfg Config, cause error) error {
	return keypath.Errorf([]string{"key"}, "neither %s nor %s is of the log %s with this key: key or origin are another log's (%w)", cfg.Dir, cfg.Guard, cfg.Origin, cause)
}

// published reads the directory's checkpoint and verifies its signature.
func (l *Log) published() (*checkpoint, error) {
	return readCheckpoint(l.directory, l.origin, l.key)
}

func readCheckpoint(d directory, origin string, key *logKey) (*checkpoint, error) {
	raw, err := d.checkpoint()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoCheckpoint, err)
	}
	return verifyCheckpoint(raw, origin, key)
}

func verifyCheckpoint(raw []byte, origin string, key *logKey) (*checkpoint, error) {
	c, err := parseCheckpoint(raw, origin, noteKeyID(origin, key.id))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoCheckpoint, err)
	}
	if !key.verifyTreeHead(c.timestamp, c.head, c.signed) {
		return nil, fmt.Errorf("%w: its signature is wrong", errNoCheckpoint)
	}
	return c, nil
}

// check proves that the directory continues the guard's tree and the checkpoint's.
func (l *Log) check(ctx context.Context, file guardFile, published *checkpoint) error {
	newest := file.head()
	l.guard.file = file
	l.guard.newest.Store(&newest)
	if err := checkPublished(ctx, l.directory, published.head); err != nil {
		return describe(err, newest)
	}
	return describe(l.guard.check(ctx), newest)
}

// checkPublished proves that the directory's tree continues its own checkpoint.
func checkPublished(ctx context.Context, d directory, published treeHead) error {
	head, err := d.head()
	if err != nil {
		return err
	}
	if head.size < published.size {
		return fmt.Errorf("%w: its tree has %d entries, its checkpoint %d", errOlder, head.size, published.size)
	}
	return d.consistent(ctx, published, head)
}

// describe adds the guard's tree to err.
func describe(err error, newest treeHead) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w (the guard: %s)", err, newest)
}

// start hands the directory to Tessera.
func (l *Log) start(cfg Config) error {
	// No other part of this process holds a lock of Tessera's yet.
	if _, err := l.tryOpen(treeStateLock); err != nil {
		return err
	}
	// Tessera's background work stops with this context, after Shutdown has drained it.
	ctx, cancel := context.WithCancel(context.Background())
	driver, err := posix.New(ctx, posix.Config{Path: cfg.Dir})
	if err != nil {
		cancel()
		return fmt.Errorf("opening log %s: %w", cfg.Name, err)
	}
	signer := noteSigner{
		noteVerifier: noteVerifier{origin: l.origin, key: l.key},
		admit:        l.admitCheckpoint,
		timestamp:    l.nextTimestamp,
	}
	options := tessera.NewAppendOptions().
		WithCTLayout().
		WithCheckpointSigner(signer).
		WithBatching(maxBatch, cfg.BatchAge).
		WithCheckpointInterval(cfg.CheckpointInterval).
		WithCheckpointRepublishInterval(max(republishInterval, cfg.CheckpointInterval)).
		WithGarbageCollectionInterval(collectInterval)
	appender, finish, _, err := tessera.NewAppender(ctx, driver, options)
	if err != nil {
		cancel()
		return fmt.Errorf("opening log %s: %w", cfg.Name, err)
	}
	l.add, l.finish, l.cancel = tessera.NewCertificateTransparencyAppender(appender), finish, cancel
	return nil
}

// admitCheckpoint decides whether Tessera may publish a tree head.
func (l *Log) admitCheckpoint(head treeHead) error {
	ctx := context.Background()
	err := l.tryCheckpoint(ctx, head)
	if err != nil {
		if refusal := l.refuse(ctx, err); refusal != nil {
			err = refusal
		}
		text := err.Error()
		if before := l.signError.Swap(&text); before == nil || *before != text {
			l.logger.ErrorContext(ctx, "publishing no checkpoint", slog.Any("error", err))
		}
		return err
	}
	l.signError.Store(nil)
	return nil
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
	l.lastTimestamp = max(uint64(max(l.now().UnixMilli(), 0)), l.lastTimestamp+1)
	return l.lastTimestamp
}

// refuse stops all signing if err is permanent, and returns the reason. It returns nil for
// any other error.
func (l *Log) refuse(ctx context.Context, err error) *RefusedError {
	var refusal *RefusedError
	if !errors.As(err, &refusal) {
		refusal = refusalFor(l.name, err)
	}
	if refusal == nil {
		return nil
	}
	if l.refusal.CompareAndSwap(nil, refusal) {
		l.metrics.refused.Set(1)
		l.logger.ErrorContext(ctx, "the log refuses to sign", slog.String("reason", string(refusal.Reason)), slog.Any("error", refusal))
	}
	return l.refusal.Load()
}

func refusalFor(name string, err error) *RefusedError {
	for _, it := range []struct {
		sentinel error
		reason   Reason
	}{{errOlder, ReasonOlder}, {errDamaged, ReasonDamaged}, {errInconsistent, ReasonForked}} {
		if errors.Is(err, it.sentinel) {
			return &RefusedError{Log: name, Reason: it.reason, Err: err}
		}
	}
	return nil
}

// Shutdown stops the log in an order that loses nothing: it admits no new entries; the
// pending ones are stored and get their SCTs; it publishes a checkpoint that covers them all;
// then it cancels Tessera's work and releases the locks. If ctx ends first, it does the rest
// without waiting: pending entries may be lost, but no submitter has an SCT for them.
//
// The Handler continues to serve what is published.
func (l *Log) Shutdown(ctx context.Context) error {
	l.admission.Lock()
	again := l.closing
	l.closing = true
	l.admission.Unlock()
	if again {
		<-l.closed
		return nil
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		l.pending.Wait()
	}()
	var err error
	select {
	case <-drained:
		// A log that refuses to sign publishes nothing: the wait would never end.
		if l.finish != nil && l.refusal.Load() == nil {
			err = l.finish(ctx)
		}
	case <-ctx.Done():
		err = ctx.Err()
	}
	l.cancel()
	close(l.closed)
	if err != nil {
		err = fmt.Errorf("shutting log %s down: %w", l.name, err)
	}
	return errors.Join(err, l.unlock())
}
