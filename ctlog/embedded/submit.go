// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
	// retryAfter is the backoff that a full queue asks for.
	retryAfter = time.Second
)

// errClosed: Shutdown has started.
var errClosed = errors.New("it is shutting down")

// Submit stores the precertificate and returns its SCT, as soon as the entry is durable and
// the guard covers it. It returns at once if ctx ends, but the entry may still be logged. It
// trusts the caller, which is the CA, to submit parts that belong together and verify.
//
// Errors: *RefusedError and *StorageError where an operator must act; *ctlog.RetryableError
// where the queue is full; an error that wraps ctx.Err() where ctx has ended.
func (l *Log) Submit(ctx context.Context, sub ctlog.Submission) (ctlog.SCT, error) {
	if n := len(sub.Chain); n < 2 || n > maxChain {
		return ctlog.SCT{}, fmt.Errorf("submitting precertificate: its chain has %d certificates; 2 to %d are expected", n, maxChain)
	}
	e := &ctonly.Entry{IsPrecert: true, Precertificate: sub.Chain[0], Certificate: sub.TBS, IssuerKeyHash: sub.IssuerKeyHash[:]}
	return l.submit(ctx, e, sub.Chain[1:])
}

// submit stores an entry and signs its SCT. The issuers of the entry are in their order.
func (l *Log) submit(ctx context.Context, e *ctonly.Entry, issuers [][]byte) (ctlog.SCT, error) {
	parts := append([][]byte{e.Certificate}, issuers...)
	if e.IsPrecert {
		parts = append(parts, e.Precertificate)
	}
	err := l.usable()
	for _, der := range parts {
		if n := len(der); n == 0 || n > maxCertificate {
			err = refuse(http.StatusBadRequest, "a certificate or TBSCertificate has %d bytes; at most %d are accepted", n, maxCertificate)
		}
	}
	if err == nil {
		select {
		case l.places <- struct{}{}:
		default:
			err = &ctlog.RetryableError{After: retryAfter, Err: fmt.Errorf("%d entries already wait to be stored", len(l.places))}
		}
	}
	if err != nil {
		if !errors.As(err, new(*httpError)) { // the submitter's mistake
			l.metrics.failed.Inc()
		}
		return ctlog.SCT{}, fmt.Errorf("submitting to log %s: %w", l.cfg.Name, err)
	}
	e.Timestamp = milliseconds(l.cfg.Now())
	var index uint64
	done := make(chan error, 1)
	// Tessera's queue and its futures do not observe the request's end. This goroutine waits
	// for them, and Shutdown waits for the goroutine.
	go func() {
		defer func() { <-l.places }()
		start := time.Now()
		var err error
		if index, err = l.store(context.WithoutCancel(ctx), e, issuers); err != nil {
			l.metrics.failed.Inc()
		} else {
			l.metrics.stored.Inc()
			l.metrics.duration.Observe(time.Since(start).Seconds())
		}
		done <- err
	}()
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case <-l.closed:
		err = errClosed
	case err = <-done:
		if err == nil {
			return l.key.signSCT(e, index)
		}
	}
	return ctlog.SCT{}, fmt.Errorf("submitting to log %s: %w", l.cfg.Name, err)
}

// usable returns why the log accepts no entry; nil if it does.
func (l *Log) usable() error {
	if refusal := l.refusal.Load(); refusal != nil {
		return refusal
	}
	if l.closing.Load() {
		return errClosed
	}
	return l.storage.Load().err
}

// store adds an entry to the tree and makes the guard cover it.
func (l *Log) store(ctx context.Context, e *ctonly.Entry, issuers [][]byte) (_ uint64, err error) {
	if e.FingerprintsChain, err = l.issuers.put(issuers); err != nil {
		return 0, l.failed(ctx, err)
	}
	taken := l.guard.newest.Load().TreeSize
	// A crash from here on leaves the entry in the log or not; its SCT does not exist yet.
	index, err := l.add(ctx, e)()
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
	if err := l.guard.cover(index.Index + 1); err != nil {
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
	if cause := l.checkStorage(); cause != nil {
		return errors.Join(cause, err)
	}
	return explain(l.cfg.Dir, err)
}
