// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/ctonly"
)

// flushAge is the age at which Tessera writes the entries that batches adds at once.
const flushAge = time.Millisecond

// batches adds entries to the tree together. A batch collects for age, and also while the one before is written: on
// a busy disk the batches become larger, not more. A batch costs several milliseconds of a processor,
// most of them for files that Tessera creates, and an entry of it a few microseconds.
type batches struct {
	age time.Duration
	add func(context.Context, *ctonly.Entry) tessera.IndexFuture
	// size returns a lower bound of the tree that the next entry is added to.
	size func() uint64

	mu         sync.Mutex
	collecting *batch         // under mu; nil if no entry waits
	writing    sync.WaitGroup // of the entries of the batch before
}

type batch struct {
	entries []*ctonly.Entry
	added   chan struct{} // closed when taken and indexes are set
	taken   uint64        // the tree had so many entries before
	indexes []tessera.IndexFuture
}

// enter adds an entry with the next batch, and returns its index when it is stored. taken is how many entries the
// tree had before. The caller must call leave when the entry is covered by the guard or has failed.
func (b *batches) enter(e *ctonly.Entry) (index tessera.Index, taken uint64, err error) {
	b.mu.Lock()
	mine := b.collecting
	if mine == nil {
		mine = &batch{added: make(chan struct{})}
		b.collecting = mine
		time.AfterFunc(b.age, func() { b.write(mine) })
	}
	at := len(mine.entries)
	mine.entries = append(mine.entries, e)
	b.mu.Unlock()
	<-mine.added
	index, err = mine.indexes[at]()
	return index, mine.taken, err
}

func (b *batches) leave() { b.writing.Done() }

// write adds a batch as soon as the one before is written. Meanwhile, no other batch exists.
func (b *batches) write(mine *batch) {
	b.writing.Wait()
	b.mu.Lock()
	b.collecting = nil
	b.writing.Add(len(mine.entries))
	b.mu.Unlock()
	mine.taken = b.size()
	for _, e := range mine.entries {
		mine.indexes = append(mine.indexes, b.add(context.Background(), e))
	}
	close(mine.added)
}
