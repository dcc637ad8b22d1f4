// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/transparency-dev/tessera/ctonly"

	"github.com/mayfly-ca/mayfly/ctlog"
)

const (
	// maxCertificate bounds a certificate of a submission. Package identity limits the texts
	// of this CA's leaves to 48 KiB.
	maxCertificate = 64 << 10
	// maxChain bounds a submission's chain.
	maxChain = 10
	// spareFiles is how many files this process must still be able to open to accept an
	// entry: Tessera panics where it cannot open its lock.
	spareFiles = 64
	// retryAfter is the backoff that a full queue asks for.
	retryAfter = time.Second
)

// errClosed: Shutdown has started.
var errClosed = errors.New("it is shutting down")

// entry is a log entry before its chain is replaced by fingerprints.
type entry struct {
	leaf  ctonly.Entry
	chain [][]byte // the issuer first
}

// Submit stores the precertificate and returns its SCT, as soon as the entry is durable and
// the guard covers it. It returns at once if ctx ends, but the entry may still be logged. It
// trusts the caller, which is the CA, to submit parts that belong together and verify.
//
// Errors: *RefusedError and *StorageError where an operator must act; *ctlog.RetryableError
// where the queue is full; an error that wraps ctx.Err() where ctx has ended.
func (l *Log) Submit(ctx context.Context, sub ctlog.Submission) (ctlog.SCT, error) {
	if err := checkChain(sub.Chain); err != nil {
		return ctlog.SCT{}, fmt.Errorf("submitting precertificate: %w", err)
	}
	if n := len(sub.TBS); n == 0 || n > maxCertificate {
		return ctlog.SCT{}, fmt.Errorf("submitting precertificate: its TBSCertificate has %d bytes", n)
	}
	return l.submit(ctx, &entry{
		leaf: ctonly.Entry{
			IsPrecert:      true,
			Precertificate: sub.Chain[0],
			Certificate:    sub.TBS,
			IssuerKeyHash:  sub.IssuerKeyHash[:],
		},
		chain: sub.Chain[1:],
	})
}

func checkChain(chain [][]byte) error {
	if n := len(chain); n < 2 || n > maxChain {
		return fmt.Errorf("its chain has %d certificates; it should have from 2 to %d", n, maxChain)
	}
	for i, der := range chain {
		if n := len(der); n == 0 || n > maxCertificate {
			return fmt.Errorf("certificate %d of its chain has %d bytes; at most %d are accepted", i, n, maxCertificate)
		}
	}
	return nil
}

// stored is the result of storing an entry.
type stored struct {
	index uint64
	err   error
}

// submit stores an entry and signs its SCT.
func (l *Log) submit(ctx context.Context, e *entry) (ctlog.SCT, error) {
	if err := l.enter(); err != nil {
		return ctlog.SCT{}, fmt.Errorf("submitting to log %s: %w", l.name, err)
	}
	e.leaf.Timestamp = uint64(max(l.now().UnixMilli(), 0))
	done := make(chan stored, 1)
	// Tessera's queue and its futures do not observe the request's end. This goroutine waits
	// for them, and Shutdown waits for the goroutine.
	go func() {
		defer l.leave()
		start := time.Now()
		index, err := l.store(context.WithoutCancel(ctx), e)
		if err != nil {
			l.metrics.failed.Inc()
		} else {
			l.metrics.stored.Inc()
			l.metrics.duration.Observe(time.Since(start).Seconds())
		}
		done <- stored{index, err}
	}()
	select {
	case <-ctx.Done():
		return ctlog.SCT{}, fmt.Errorf("waiting for log %s to store the entry: %w", l.name, ctx.Err())
	case <-l.closed:
		return ctlog.SCT{}, fmt.Errorf("waiting for log %s to store the entry: %w", l.name, errClosed)
	case s := <-done:
		if s.err != nil {
			return ctlog.SCT{}, fmt.Errorf("submitting to log %s: %w", l.name, s.err)
		}
		return l.key.signSCT(&e.leaf, s.index)
	}
}

// enter admits an entry; leave must follow.
func (l *Log) enter() error {
	if refusal := l.refusal.Load(); refusal != nil {
		return refusal
	}
	if err := l.preflight(); err != nil {
		return err
	}
	l.admission.Lock()
	defer l.admission.Unlock()
	if l.closing {
		return errClosed
	}
	if n := l.queued.Load(); n >= l.maxQueue {
		return &ctlog.RetryableError{After: retryAfter, Err: fmt.Errorf("%d entries already wait to be stored", n)}
	}
	l.queued.Add(1)
	l.pending.Add(1)
	return nil
}

func (l *Log) leave() {
	l.queued.Add(-1)
	l.pending.Done()
}

// store adds an entry to the tree and makes the guard cover it.
func (l *Log) store(ctx context.Context, e *entry) (uint64, error) {
	fingerprints, err := l.issuers.put(e.chain)
	if err != nil {
		return 0, l.failed(ctx, err)
	}
	e.leaf.FingerprintsChain = fingerprints
	taken := l.guard.newest.Load().size
	// A crash from here on leaves the entry in the log or not; its SCT does not exist yet.
	index, err := l.add(ctx, &e.leaf)()
	if err != nil {
		return 0, l.failed(ctx, fmt.Errorf("storing entry: %w", err))
	}
	if index.Index < taken {
		// Tessera trusts the directory's present state, and an older directory has replaced
		// it.
		return 0, l.failed(ctx, fmt.Errorf("%w: a new entry was stored as number %d, and the log had %d before", errOlder, index.Index, taken))
	}
	// The entry is durable. A crash from here on leaves it in the log, and the guard at this
	// tree or at an earlier one.
	if err := l.guard.cover(ctx, index.Index+1); err != nil {
		return 0, l.failed(ctx, err)
	}
	// Now the log may send the SCT.
	return index.Index, nil
}

// failed finds the cause of a storage error. Tessera drops the kinds of errors, so it must
// check for a full disk.
func (l *Log) failed(ctx context.Context, err error) error {
	if refusal := l.refuse(ctx, err); refusal != nil {
		return refusal
	}
	if cause := l.preflight(); cause != nil {
		return errors.Join(cause, err)
	}
	return explain(l.directory.path, err)
}

// preflight refuses an entry while the disk cannot store it.
func (l *Log) preflight() error {
	dir := l.directory.path
	f, err := statFilesystem(dir)
	if err == nil {
		err = checkFilesystem(dir, f)
	}
	if err == nil {
		err = checkSpace(dir, f, l.reserve)
	}
	if err != nil {
		return err
	}
	return l.probe()
}

// probe avoids calls of Tessera where it cannot open its lock file: Tessera would panic in
// its own goroutine and stop the process. probe uses another file beside it: when a process
// closes any descriptor of a file, it loses all its record locks on that file.
func (l *Log) probe() error {
	descriptor, err := l.tryOpen(probeFile)
	if err != nil {
		return err
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	return checkDescriptor(uint64(descriptor), limit.Cur)
}

// checkDescriptor uses a new descriptor's number to check that enough are free: the kernel
// assigns the lowest free one.
func checkDescriptor(descriptor, limit uint64) error {
	if descriptor+spareFiles > limit {
		return &ctlog.RetryableError{After: retryAfter, Err: fmt.Errorf("nearly all of the %d files that this process may open are open; raise the limit (ulimit -n, LimitNOFILE)", limit)}
	}
	return nil
}

// tryOpen opens a file as Tessera opens its locks, and closes it. It returns the descriptor's
// number.
func (l *Log) tryOpen(name string) (int, error) {
	dir := l.directory.path
	descriptor, err := syscall.Open(filepath.Join(dir, name), syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return 0, explain(dir, fmt.Errorf("opening %s: %w", name, err))
	}
	return descriptor, os.NewSyscallError("close", syscall.Close(descriptor))
}
