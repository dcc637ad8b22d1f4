// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/internal/breaker"
	"github.com/mayfly-ca/mayfly/internal/files"
)

const (
	lockFile = "lock"
	noHash   = "0000000000000000000000000000000000000000000000000000000000000000" // before the first record
	// maxBatch bounds what one write holds, and thus the bytes that a crash can leave incomplete.
	maxBatch = 1 << 20
)

// appender is the state of the goroutine that writes. Only that goroutine uses it, and Open before.
type appender struct {
	lock    *os.File
	head    Head
	file    *os.File  // nil until the first record, and once it is abandoned
	size    int64     // of file, up to the end of the head
	began   time.Time // file
	buffer  []byte
	left    string // the abandoned file; "" if there is none
	cause   error  // why it is abandoned
	failing bool   // since the last attempt to write
	retryAt time.Time
}

// Open locks the directory, which it creates, and finds the end of the chain in it. A file with an
// incomplete end is abandoned: a recovery record, in a new file, follows it. Open writes no record.
func Open(cfg Config) (l *Log, err error) {
	if err := CheckSettings(cfg); err != nil {
		return nil, err
	}
	l = &Log{
		cfg: cfg.withDefaults(), wake: make(chan struct{}, 1), stopped: make(chan struct{}), refused: map[string]uint64{}, limiters: map[string]*rate.Limiter{},
	}
	l.spare = &breaker.Sparing{Logger: l.cfg.Logger, Interval: interval}
	if err = os.Mkdir(l.cfg.Dir, 0o750); err == nil {
		err = files.SyncFolder(filepath.Dir(l.cfg.Dir))
	} else if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err == nil {
		err = l.acquire()
	}
	if err == nil {
		err = l.resume()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the audit log: %w", err), l.release())
	}
	l.newMetrics()
	l.state.Store(&state{head: l.head})
	go l.run()
	return l, nil
}

// acquire locks the directory.
func (l *Log) acquire() (err error) {
	l.lock, err = files.Lock(filepath.Join(l.cfg.Dir, lockFile), 0o640)
	if errors.Is(err, files.ErrLocked) {
		return fmt.Errorf("%s is in use by another process; each server needs a directory of its own", l.cfg.Dir)
	}
	return err
}

// release closes the file and unlocks the directory.
func (l *Log) release() (err error) {
	if l.file != nil {
		err = l.file.Close()
	}
	if l.lock != nil {
		err = errors.Join(err, files.Unlock(l.lock))
	}
	l.file, l.lock = nil, nil
	return err
}

// resume finds the head of the chain, and opens the newest file if it can be continued.
func (l *Log) resume() error {
	all, err := list(l.cfg.Dir)
	for i, f := range slices.Backward(all) {
		var left int64
		if l.head, l.size, left, err = lastRecord(f.path); err != nil {
			return err
		}
		if l.head.Sequence == 0 && left > maxBatch {
			return fmt.Errorf("%s has no record in its last MiB; move it out of the directory, and keep it", f.path)
		}
		if l.head.Sequence == 0 { // a crash between its creation and its first record
			continue
		}
		if l.file, err = os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|syscall.O_NOFOLLOW, 0); err != nil {
			return err
		}
		l.began = f.first.Time
		if i < len(all)-1 || left > 0 {
			l.abandon(fmt.Errorf("%d bytes after its last record are none, and %d files after it have none", left, len(all)-1-i))
			continue
		}
		return errors.Join(l.file.Sync(), files.SyncFolder(l.cfg.Dir)) // a killed process may have left both undone
	}
	return err
}

// abandon closes the current file. The next one begins with a recovery record.
func (l *Log) abandon(cause error) {
	if l.file != nil {
		l.left = l.file.Name()
		_ = l.file.Close() // what counts of it is durable
	}
	l.file, l.cause = nil, cause
}

// run writes the queued entries in batches until the log is closed. While the log cannot be written, run
// tries again by itself.
func (l *Log) run() {
	defer close(l.stopped)
	ticker := time.NewTicker(retryInterval)
	defer ticker.Stop()
	var batch []*Entry
	for last := false; !last; {
		select {
		case <-l.wake:
		case <-ticker.C:
		}
		if len(batch) > 1 { // under load, a short wait makes fewer and larger batches
			time.Sleep(gatherTime)
		}
		if batch, last = l.take(); len(batch) > 0 || l.failing {
			l.commit(batch)
		}
	}
}

// take returns the next batch, and whether it is the last one of a log that is being closed.
func (l *Log) take() (batch []*Entry, last bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for size := 0; n < len(l.queue) && size+maxHeader+len(l.queue[n].body) <= maxBatch; n++ {
		size += maxHeader + len(l.queue[n].body)
	}
	batch, l.queue = l.queue[:n:n], l.queue[n:]
	if len(l.queue) > 0 {
		l.wakeUp()
	}
	return batch, l.closing && len(l.queue) == 0
}

// commit writes a batch durably, makes the result known, and wakes the waiting callers.
func (l *Log) commit(batch []*Entry) {
	l.begun.Store(time.Now().UnixNano())
	err := l.cause
	if !l.failing || !time.Now().Before(l.retryAt) {
		err = l.write(batch)
	}
	l.begun.Store(0)
	l.publish(err)
	var owed []*Entry
	for _, e := range batch {
		if err != nil && !e.waits && e.Kind != KindDenial && len(owed) < maxOwed {
			owed = append(owed, e)
			continue
		}
		if err != nil && e.Kind == KindDenial {
			l.drop(e.Record)
		}
		e.err = cmp.Or(e.err, err)
		close(e.done)
	}
	if len(owed) > 0 {
		l.mu.Lock()
		l.queue = append(owed, l.queue...)
		l.mu.Unlock()
	}
}

func (l *Log) publish(err error) {
	last, ctx := l.state.Load(), context.Background()
	next := &state{l.head, err, last.since}
	if err != nil && last.err == nil {
		next.since = time.Now()
	}
	if err != nil {
		l.spare.Log(ctx, slog.LevelError, "the audit log cannot be written: no certificate is issued until it can", slog.String("error", err.Error()))
	} else if last.err != nil {
		l.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "the audit log is written again", slog.Uint64("audit_sequence", l.head.Sequence))
	}
	l.state.Store(next)
}

// write writes a batch to the current file, or to a new one, and syncs it. After a failure nothing after
// the last durable record counts: the page cache may hold what the disk does not. So the file is
// never written again, and what can be cut off is.
func (l *Log) write(batch []*Entry) error {
	began := time.Now()
	b := l.buffer[:0]
	err := l.prepare(batch)
	head, now := l.head, l.cfg.Now()
	for _, e := range batch {
		if e.intent != nil && e.intent.err != nil { // it has no outcome
			e.err = e.intent.err
		} else if err == nil {
			b, head = appendEntry(b, e, head, now)
		}
	}
	l.buffer = b
	if err == nil && len(b) > 0 {
		err = l.cfg.store(l.file, b)
	}
	if err != nil {
		l.metrics.failures.Inc()
		if l.file != nil {
			_ = l.file.Truncate(l.size)
		}
		l.abandon(err)
		l.failing, l.retryAt = true, time.Now().Add(retryInterval)
		return err
	}
	l.head, l.size = head, l.size+int64(len(b))
	l.metrics.duration.Observe(time.Since(began).Seconds())
	return nil
}

// appendEntry appends the line of an entry, and returns the head that it makes.
func appendEntry(b []byte, e *Entry, last Head, now time.Time) ([]byte, Head) {
	start := len(b)
	e.sequence = last.Sequence + 1
	b = fmt.Appendf(b, `{"seq":%d,"time":"%s","prev":"%s","kind":"%s"`, e.sequence, now.UTC().Format(time.RFC3339Nano), cmp.Or(last.Hash, noHash), e.Kind)
	if e.intent != nil {
		b = fmt.Appendf(b, `,"intent":%d`, e.intent.sequence)
	}
	if len(e.body) > len("{}") {
		b = append(b, ',')
	}
	b = append(b, e.body[1:]...)
	return append(b, '\n'), Head{e.sequence, hashOf(b[start:])}
}

// store appends to a file durably.
func store(f *os.File, b []byte) error {
	if _, err := f.Write(b); err != nil {
		return fmt.Errorf("writing the audit log: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("syncing the audit log: %w", err)
	}
	return nil
}

// prepare begins a new file where the current one is full, too old, no longer in its directory, no longer
// locked, or abandoned.
func (l *Log) prepare(batch []*Entry) error {
	size := l.size
	for _, e := range batch {
		size += maxHeader + int64(len(e.body))
	}
	if l.file != nil && !isAt(l.file, l.file.Name()) {
		l.abandon(fmt.Errorf("it is no longer in %s", l.cfg.Dir))
	}
	if lock := filepath.Join(l.cfg.Dir, lockFile); !isAt(l.lock, lock) { // the directory is another one, or any process may use it
		if l.file != nil {
			l.abandon(fmt.Errorf("%s was removed", lock))
		}
		_ = files.Unlock(l.lock)
		if err := l.acquire(); err != nil {
			return err
		}
	}
	if l.file != nil && (len(batch) == 0 || size <= l.cfg.MaxSize && l.cfg.Now().Sub(l.began) < l.cfg.MaxAge) {
		return nil
	}
	return l.create()
}

// isAt reports whether path names the open file.
func isAt(f *os.File, path string) bool {
	named, errNamed := os.Lstat(path)
	opened, err := f.Stat()
	return err == nil && errNamed == nil && os.SameFile(named, opened)
}

// create begins a new file. Its name has the sequence of its first record. After an abandoned file, that
// is a recovery record. A file of that name without a record is what a crash has left.
func (l *Log) create() error {
	path := filepath.Join(l.cfg.Dir, fileName(l.head.Sequence+1))
	if other, _, _, err := lastRecord(path); err == nil && other.Sequence > l.head.Sequence+1 && l.left != path {
		return fmt.Errorf("creating a file of the audit log: %s has records of another log; move it out of the directory, and keep it", path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND|syscall.O_NOFOLLOW, 0o640)
	if err != nil {
		return fmt.Errorf("creating a file of the audit log: %w", err)
	}
	head, now := l.head, l.cfg.Now()
	var b []byte
	if l.left != "" {
		b, head = appendEntry(nil, l.entry(&Record{Kind: KindRecovery, File: filepath.Base(l.left), Error: l.cause.Error()}), head, now)
		err = l.cfg.store(f, b)
	}
	if err == nil {
		err = files.SyncFolder(l.cfg.Dir)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	if l.file != nil {
		_ = l.file.Close() // every record in it is durable
	}
	l.file, l.size, l.began, l.head = f, int64(len(b)), now, head
	l.left, l.cause, l.failing = "", nil, false
	return nil
}
