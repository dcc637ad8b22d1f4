// SPDX-License-Identifier: Apache-2.0

// Package audit is the audit log: an append-only chain of JSON lines, in which each record has the
// hash of the one before it. A record is durable before the call that waits for it returns.
//
// Packages ca, config, app and cmd may import it. It imports none of the flow.
package audit

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/mayfly-ca/mayfly/internal/breaker"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// Config is the audit log (audit.md). The fields with tags are keys of `audit`.
type Config struct {
	// Dir is the directory of the audit log, on a local disk, for one server. The server creates it.
	Dir string `key:"dir" kind:"path" required:"it is the directory of the audit log"`
	// Identity is how records name the caller. With hmac, the subject alternative name and the token's
	// sub are keyed hashes, and `mayfly audit show` finds a name with the key.
	Identity string `key:"identity" default:"plain" oneof:"plain hmac"`
	// HMACKeyFile holds the key of identity: hmac, at least 32 bytes.
	HMACKeyFile string `key:"hmac_key_file" kind:"path"`
	// Claims are the claims of the token that records contain as they are, at most 16, also with
	// identity: hmac.
	Claims []string `key:"claims"`
	// MaxSize is the size at which a new file begins.
	MaxSize int64 `key:"max_size" default:"64MiB" min:"1MiB" max:"1GiB"`
	// MaxAge is the age at which a new file begins, with the next record.
	MaxAge time.Duration `key:"max_age" default:"24h" min:"1m" max:"8760h"`

	HMACKey    []byte                // the content of HMACKeyFile
	Now        func() time.Time      // the clock of the records; nil for time.Now
	Logger     *slog.Logger          // receives failures, and the head each minute; nil for none
	Registerer prometheus.Registerer // of the metrics mayfly_audit_…; nil for none

	store func(*os.File, []byte) error // the function of that name, except in tests
}

const (
	minHMACKey     = 32
	maxClaims      = 16 // in Config.Claims
	maxName        = 64 // bytes of such a name
	nameCharacters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:/"

	maxQueue = 4096 // records that wait to be written; a denial needs half of it to be free
	maxOwed  = 128  // records of events that wait until the log can be written

	denialBurst    = 60          // denials that an issuer entry may have at once
	denialInterval = time.Second // for each further one
	gatherTime     = 2 * time.Millisecond
	stalled        = 5 * time.Second
	interval       = time.Minute // of the head in the ordinary log, and of the record of refusals
	retryInterval  = time.Second // of attempts to write again after a failure
)

// CheckSettings checks what package config does not know. Its errors have key paths.
func CheckSettings(cfg Config) error {
	var errs []error
	mistake := func(key, format string, args ...any) {
		errs = append(errs, keypath.Errorf([]string{key}, format, args...))
	}
	const expected = "a file with a key of at least 32 bytes is expected, such as from openssl rand -hex 32"
	switch isHMAC := cfg.Identity == "hmac"; {
	case isHMAC && cfg.HMACKeyFile == "":
		mistake("hmac_key_file", "identity: hmac has no hmac_key_file; %s", expected)
	case !isHMAC && cfg.HMACKeyFile != "":
		mistake("hmac_key_file", "hmac_key_file is for identity: hmac only; found identity: plain")
	case cfg.HMACKey != nil && len(cfg.HMACKey) < minHMACKey:
		mistake("hmac_key_file", "the key has %d bytes; %s", len(cfg.HMACKey), expected)
	}
	if len(cfg.Claims) > maxClaims {
		mistake("claims", "found %d claims; a record has room for %d", len(cfg.Claims), maxClaims)
	}
	for i, name := range cfg.Claims {
		if strings.Trim(name, nameCharacters) != "" || len(name) > maxName || slices.Contains(cfg.Claims[:i], name) {
			mistake("claims", "found %.70q; names of at most %d letters, digits and -_.:/ are expected, each once", name, maxName)
		}
	}
	return errors.Join(errs...)
}

// Log is an audit log that is open for writing. It is safe for concurrent use. A nil Log records nothing.
type Log struct {
	cfg     Config
	metrics metrics
	spare   *breaker.Sparing
	wake    chan struct{} // holds an element while the appender has work
	stopped chan struct{} // closed when the appender has stopped
	state   atomic.Pointer[state]
	begun   atomic.Int64 // when the present write began, in Unix nanoseconds; 0 for none

	mu       sync.Mutex // guards what follows
	queue    []*Entry
	closing  bool
	refused  map[string]uint64        // since the last record of refusals, by reason
	dropped  uint64                   // denials, since then
	limiters map[string]*rate.Limiter // of denials, by issuer entry

	appender
}

// state is what the appender has done. It is not changed once it is published.
type state struct {
	head  Head
	err   error     // nil while the log can be written
	since time.Time // of err
}

// Entry is a record on its way to the disk.
type Entry struct {
	*Record  // its kind and reason only
	body     []byte
	intent   *Entry // of an outcome
	waits    bool   // a request waits for it
	sequence uint64 // before done is closed
	err      error  // likewise
	done     chan struct{}
}

// Append queues a record of a request, and returns when it is durable or ctx has ended. intent is that of
// an outcome, and nil otherwise. While the disk hangs, Append returns at once for an intent. The refusal is AUDIT_UNAVAILABLE. The Entry is nil if the record will
// never be written.
func (l *Log) Append(ctx context.Context, r *Record, intent *Entry) (*Entry, error) {
	if _, err := l.stall(); err != nil && intent == nil { // it would only occupy the server until its time is over
		return nil, unavailable(err)
	}
	e := l.entry(r)
	e.intent, e.waits = intent, true
	err := l.put(e, maxQueue)
	if err == nil {
		select {
		case <-e.done:
			err = e.err
		case <-ctx.Done():
			return e, unavailable(fmt.Errorf("waiting for the disk: %w", ctx.Err()))
		}
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return e, nil
}

func unavailable(cause error) error {
	return refusal.New(refusal.AuditUnavailable, "the certificate authority cannot write its audit log, without which it issues no certificate; try again in a moment").Because(cause)
}

// Deny queues a record of a denial and does not wait. It drops the denial, and counts it, if its issuer
// entry has had too many, or if records of other kinds need the room.
func (l *Log) Deny(r *Record) {
	l.mu.Lock()
	limiter := l.limiters[r.Entry]
	if limiter == nil {
		limiter = rate.NewLimiter(rate.Every(denialInterval), denialBurst)
		l.limiters[r.Entry] = limiter
	}
	l.mu.Unlock()
	if !limiter.AllowN(l.cfg.Now(), 1) || l.put(l.entry(r), maxQueue/2) != nil {
		l.drop(r)
	}
}

// drop counts a denial that has no record.
func (l *Log) drop(r *Record) {
	l.metrics.dropped.Inc()
	l.Refused(r.Reason)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropped++
}

// Refused counts a refusal that has no record of its own. There are few reasons, all of them the program's.
func (l *Log) Refused(reason string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused[reason]++
}

// Event queues a record that no request causes, and does not wait. If the log cannot be written, the record
// is written as soon as it can.
func (l *Log) Event(r *Record) {
	if l != nil {
		_ = l.put(l.entry(r), maxQueue+maxOwed) // an error means that the log is closed
	}
}

// Run logs the head and records the refusals once a minute, until ctx ends.
func (l *Log) Run(ctx context.Context) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			l.recordRefusals()
			l.logHead(ctx)
		}
	}
}

func (l *Log) recordRefusals() {
	l.mu.Lock()
	r := &Record{Kind: KindRefusals, Refused: l.refused, Dropped: l.dropped}
	l.refused, l.dropped = map[string]uint64{}, 0
	l.mu.Unlock()
	if len(r.Refused) > 0 {
		l.Event(r)
	}
}

func (l *Log) logHead(ctx context.Context) {
	head := l.state.Load().head
	l.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "audit head", slog.Uint64("audit_sequence", head.Sequence), slog.String("audit_hash", head.Hash))
}

// Status returns the newest durable record, why the log cannot be written, and since when. The error is
// nil while it can.
func (l *Log) Status() (head Head, since time.Time, err error) {
	s := l.state.Load()
	if at, err := l.stall(); err != nil && s.err == nil {
		return s.head, at, err
	}
	return s.head, s.since, s.err
}

// stall returns when the present write began, and an error if it takes too long.
func (l *Log) stall() (time.Time, error) {
	begun := l.begun.Load()
	if at := time.Unix(0, begun); begun != 0 && time.Since(at) > stalled {
		return at, fmt.Errorf("a write to %s has taken more than %v", l.cfg.Dir, stalled)
	}
	return time.Time{}, nil
}

// Close writes what is queued and the record of the shutdown, logs the head and unlocks the directory. If
// ctx ends before, the disk hangs.
func (l *Log) Close(ctx context.Context) error {
	l.recordRefusals()
	l.Event(&Record{Kind: KindShutdown})
	l.mu.Lock()
	l.closing = true
	l.mu.Unlock()
	l.wakeUp()
	select {
	case <-l.stopped:
	case <-ctx.Done():
		return fmt.Errorf("closing the audit log in %s: %w", l.cfg.Dir, ctx.Err())
	}
	l.logHead(ctx)
	return errors.Join(l.state.Load().err, l.release())
}

// entry encodes a record, all but its header.
func (l *Log) entry(r *Record) *Entry {
	encoded := *r
	encoded.Kind, encoded.Claims = "", claimsOf(l.cfg.Claims, r.Values)
	if l.cfg.HMACKey != nil {
		encoded.Identity, encoded.Subject = KeyedHash(l.cfg.HMACKey, "identity", r.Identity), KeyedHash(l.cfg.HMACKey, "subject", r.Subject)
	}
	// The claims may be large, and many entries may wait for a disk that hangs.
	return &Entry{Record: &Record{Kind: r.Kind, Reason: r.Reason}, body: encoded.body(), done: make(chan struct{})}
}

// KeyedHash returns the form of a name with `identity: hmac`; "" for none. The same text in another field, by its
// JSON key, has another form.
func KeyedHash(key []byte, field, text string) string {
	if text == "" {
		return ""
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(field + "=" + text))
	return "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil))
}

// put queues an entry, unless most are queued already.
func (l *Log) put(e *Entry, most int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closing:
		return errors.New("the audit log is closed")
	case len(l.queue) >= most:
		return fmt.Errorf("%d records wait for the disk already", len(l.queue))
	}
	l.queue = append(l.queue, e)
	l.wakeUp()
	return nil
}

func (l *Log) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

type metrics struct {
	failures, dropped prometheus.Counter
	duration          prometheus.Histogram
}

func (l *Log) newMetrics() {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	l.metrics = metrics{
		counter("mayfly_audit_failures_total", "Attempts to write the audit log that failed. Requests that waited for one were refused with AUDIT_UNAVAILABLE."),
		counter("mayfly_audit_denials_dropped_total", "Denials without an audit record of their own: their issuer entry had too many, or intents and outcomes needed the room."),
		prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mayfly_audit_write_duration_seconds", Help: "Time to write a batch of audit records durably. Each certificate waits for two batches.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}),
	}
	if l.cfg.Registerer == nil {
		return
	}
	l.cfg.Registerer.MustRegister(l.metrics.failures, l.metrics.dropped, l.metrics.duration,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_audit_writable", Help: "1 while the audit log can be written, 0 while no certificate is issued because it cannot.",
		}, func() float64 {
			_, _, err := l.Status()
			return map[bool]float64{true: 1}[err == nil]
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mayfly_audit_sequence", Help: "Sequence of the newest durable record of the audit log.",
		}, func() float64 { return float64(l.state.Load().head.Sequence) }))
}

// withDefaults returns cfg with a value for each field that may be empty.
func (cfg Config) withDefaults() Config {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.store == nil {
		cfg.store = store
	}
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	cfg.MaxSize, cfg.MaxAge = cmp.Or(cfg.MaxSize, 64<<20), cmp.Or(cfg.MaxAge, 24*time.Hour)
	return cfg
}
