// SPDX-License-Identifier: Apache-2.0

// Package reader reads Certificate Transparency logs: their tree heads, their entries, and the
// certificates in these. A log is a Source: one over HTTP (Open), or the directory of an embedded
// log.
//
// Packages ctlog/embedded, app and cmd may import it.
package reader

import (
	"context"
	"iter"
	"time"
)

// Batch is how many entries a Source returns at a time: those of a data tile (static-ct-api).
const Batch = 256

// Source is a log that can be read. Its methods are safe for concurrent use.
type Source struct {
	// Head is the tree that is read.
	Head Head
	// Signed is when the log signed Head; zero if that is unknown.
	Signed time.Time
	// Proven reports that every entry is proven to be in Head.
	Proven bool
	// Disorder bounds how much earlier an entry may be than one before it.
	Disorder time.Duration
	// Read returns the entries from first, a multiple of Batch, to before end, at most Batch.
	Read func(ctx context.Context, first, end uint64) ([]*Entry, error)
	// Parallel is how many batches are read at a time; at least 1.
	Parallel int
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
			if b := <-result; !yield(b.entries, b.err) || b.err != nil {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(nil, err)
		}
	}
}

// Backward yields the index of the first entry of each batch in a tree of size entries, the newest
// batch first.
func Backward(size uint64) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for end := size; end > 0; end = (end - 1) / Batch * Batch {
			if !yield((end - 1) / Batch * Batch) {
				return
			}
		}
	}
}
