// SPDX-License-Identifier: Apache-2.0

// Package reader reads Certificate Transparency logs: their tree heads, their entries, and the
// certificates in these. A log is a Source: one over HTTP (Open), or the directory of an embedded
// log.
//
// Packages ctlog/embedded, app and cmd may import it.
package reader

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/wildcard"
)

// Batch is how many entries a Source returns at a time: those of a data tile (static-ct-api).
const Batch = 256

// Source is a log that can be read. Its methods are safe for concurrent use.
type Source struct {
	// Head is the tree that is read.
	Head Head
	// Signed is when the log signed Head; zero if that is unknown.
	Signed time.Time
	// Disorder bounds how much earlier an entry may be than one before it.
	Disorder time.Duration
	// Read returns the entries from first, a multiple of Batch, to before end, at most Batch.
	Read func(ctx context.Context, first, end uint64) ([]*Entry, error)
	// Parallel is how many batches are read at a time; at least 1.
	Parallel int
	// Index excludes batches from a search; nil for none.
	Index *Index
}

// Batches yields the batches that begin at each of firsts, in this order. It reads some of them
// ahead, stops after an error, and yields an error if ctx ends.
func (s *Source) Batches(ctx context.Context, firsts iter.Seq[uint64]) iter.Seq2[[]*Entry, error] {
	type batch struct {
		entries []*Entry
		err     error
	}
	return func(yield func([]*Entry, error) bool) {
		reading, stop := context.WithCancel(ctx)
		defer stop()
		ahead := make(chan chan batch, s.Parallel-1)
		go func() {
			defer close(ahead)
			for first := range firsts {
				result := make(chan batch, 1)
				select {
				case ahead <- result:
				case <-reading.Done():
					return
				}
				go func() {
					entries, err := s.Read(reading, first, min(first+Batch, s.Head.Size))
					result <- batch{entries, err}
				}()
			}
		}()
		for result := range ahead {
			b := <-result
			if b.err == nil {
				b.err = ctx.Err() // of a Read that does not wait for anything
			}
			if !yield(b.entries, b.err) || b.err != nil {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(nil, err)
		}
	}
}

// backward yields the index of the first entry of each batch that must be read, the newest batch first.
func (p *segment) backward(q *Query) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for end := p.end; end > p.first; {
			end = (end - 1) / Batch * Batch
			if !p.skips(q, end) && !yield(end) {
				return
			}
		}
	}
}

// Query states which certificates to find. An empty field matches all; every other field must
// match.
type Query struct {
	Identity string    // the name in the SAN: an email address, a URI, or user!domain; a * stands for any text
	Issuer   string    // the issuer URL of the token; a * stands for any text
	Serial   []byte    // the serial number, big-endian, without leading zeros
	Since    time.Time // the earliest timestamp of the SCT
	Until    time.Time // the latest one

	// Progress receives how many of the log's entries have been read; nil for none. A search that
	// finds all it needs reads fewer.
	Progress func(done, total uint64)
	// Unindexed receives, once, why the Index of a segment could not be stored: later searches read the
	// segment again. nil for none.
	Unindexed func(error)
}

// Found is a matching entry.
type Found struct {
	Index       uint64    // the entry's number, from 0; the leaf_index of its SCT
	Timestamp   time.Time // of the SCT, to the millisecond
	DER         []byte    // the submitted certificate or precertificate; it must not be changed
	Certificate *x509.Certificate
	SAN         certs.SAN
	Issuer      string // the issuer URL of the token
}

// Search yields the entries of the log that match q, the newest first. It skips entries that are not
// certificates of a keyless CA. It stops when ctx ends, and after an error.
func (s *Source) Search(ctx context.Context, q Query) iter.Seq2[*Found, error] {
	return func(yield func(*Found, error) bool) {
		for end := s.Head.Size; end > 0; {
			part := s.open(&q, end)
			if !s.searchPart(ctx, &q, part, yield) {
				return
			}
			if err := part.store(); err != nil && q.Unindexed != nil {
				q.Unindexed(err)
				q.Unindexed = nil
			}
			end = part.first
		}
	}
}

// searchPart reports whether the search continues before the part.
func (s *Source) searchPart(ctx context.Context, q *Query, part *segment, yield func(*Found, error) bool) bool {
	for entries, err := range s.Batches(ctx, part.backward(q)) {
		if err != nil {
			yield(nil, err)
			return false
		}
		var newest time.Time
		for _, entry := range slices.Backward(entries) {
			found := &Found{Index: entry.Index, Timestamp: ctlog.Time(entry.Timestamp), DER: entry.Certificate}
			if q.matches(found) && !yield(found, nil) {
				return false
			}
			if found.Timestamp.After(newest) {
				newest = found.Timestamp
			}
		}
		if newest.Before(q.Since.Add(-s.Disorder)) {
			return false
		}
		part.collect(entries)
		if q.Progress != nil && len(entries) > 0 {
			q.Progress(s.Head.Size-entries[0].Index, s.Head.Size)
		}
	}
	return true
}

// mayMatch reports whether text holds every part of what is asked for. DER holds the text of a name, an issuer URL
// and a serial number unchanged.
func (q *Query) mayMatch(text []byte) bool {
	for _, asked := range []string{q.Identity, q.Issuer} {
		for part := range strings.SplitSeq(asked, "*") {
			if !bytes.Contains(text, []byte(part)) {
				return false
			}
		}
	}
	return bytes.Contains(text, q.Serial)
}

// matches parses the certificate of an entry that may match: mayMatch costs a hundredth of that.
func (q *Query) matches(e *Found) bool {
	if !q.mayMatch(e.DER) || e.Timestamp.Before(q.Since) || !q.Until.IsZero() && e.Timestamp.After(q.Until) {
		return false
	}
	var extensions certs.Extensions
	var err error
	if e.Certificate, err = x509.ParseCertificate(e.DER); err == nil {
		e.SAN, err = certs.SANOf(e.Certificate)
	}
	if err == nil {
		extensions, err = certs.ParseExtensions(e.Certificate.Extensions)
	}
	e.Issuer = cmp.Or(extensions[certs.IssuerV2], extensions[certs.IssuerV1]) // early certificates have only the latter
	return err == nil && wildcard.Match(q.Identity, e.SAN.Value) && wildcard.Match(q.Issuer, e.Issuer) &&
		(len(q.Serial) == 0 || bytes.Equal(e.Certificate.SerialNumber.Bytes(), q.Serial))
}
