// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/files"
)

const (
	maxGuardFile = 16 << 10                 // bounds the size of a guard; this log's has about 250 bytes, or two slots
	slotSize     = 4 << 10                  // a block of a filesystem, so that the write of a slot does not touch the other
	objectSize   = slotSize - 2*sha256.Size // of a slot's object with its spaces
)

// guardFile is the content of a guard: which log it is for, and that log's newest tree.
type guardFile struct {
	Origin   string    `json:"origin"`
	LogID    []byte    `json:"log_id"`
	TreeSize uint64    `json:"tree_size"`
	RootHash []byte    `json:"root_hash"`
	Updated  time.Time `json:"updated"`
}

// at returns f for another tree.
func (f guardFile) at(head reader.Head, now time.Time) *guardFile {
	f.TreeSize, f.RootHash, f.Updated = head.Size, head.Root[:], now.UTC().Truncate(time.Millisecond)
	return &f
}

// head returns the tree; zero for a guard that could not be read.
func (f *guardFile) head() (h reader.Head) {
	h.Size = f.TreeSize
	copy(h.Root[:], f.RootHash)
	return h
}

func (f *guardFile) marshal() ([]byte, error) {
	content, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("marshalling guard: %w", err)
	}
	return append(content, '\n'), nil
}

// seal returns a guard's object as a slot: with spaces, and with the SHA-256 of both.
func seal(object []byte) []byte {
	object = append(slices.Clip(object), bytes.Repeat([]byte(" "), max(objectSize-len(object), 0))...)
	return fmt.Appendf(object, "%x", sha256.Sum256(object))
}

// errOtherLog: a guard is valid, but belongs to another log.
var errOtherLog = errors.New("its files are of different logs")

// readGuard reads the guard of the log that origin and logID name.
func readGuard(path, origin string, logID [32]byte) (*guardFile, error) {
	content, err := files.Read(path, maxGuardFile)
	var g *guardFile
	if err == nil {
		g, err = parseGuard(content)
	}
	switch {
	case err != nil:
		return &guardFile{}, fmt.Errorf("its guard %s cannot be used: %w", path, err)
	case g.Origin != origin || string(g.LogID) != string(logID[:]):
		return &guardFile{}, fmt.Errorf("%w: its guard %s is that of the log %.100q with the log ID %x, not of %q with %x", errOtherLog, path, g.Origin, g.LogID, origin, logID)
	}
	return g, nil
}

// parseGuard reads one object, or two slots: the newest with its checksum. A crash may spoil only the slot that is
// being written, and for its tree nothing has left the process.
func parseGuard(content []byte) (newest *guardFile, err error) {
	if len(content) != 2*slotSize {
		return parseGuardObject(content)
	}
	err = errors.New("both of its slots are damaged")
	for slot := range slices.Chunk(content, slotSize) {
		if !bytes.Equal(seal(slot[:objectSize]), slot) {
			continue
		}
		if g, errObject := parseGuardObject(slot[:objectSize]); newest == nil || errObject != nil || g.TreeSize > newest.TreeSize {
			newest, err = g, errObject
		}
	}
	return newest, err
}

func parseGuardObject(content []byte) (*guardFile, error) {
	g := &guardFile{}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields() // a field of a later version could restrict what the log may sign
	if err := decoder.Decode(g); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more data follows its JSON object")
	}
	if len(g.LogID) != hashSize || len(g.RootHash) != hashSize || g.TreeSize == 0 && g.head() != reader.EmptyTree() {
		return nil, errors.New("its log_id or root_hash is no hash, or not that of an empty tree")
	}
	return g, nil
}

// guard records, outside the log's directory, the newest tree for which the log signed
// anything. Its invariants:
//
//   - Nothing leaves the process, no SCT and no checkpoint, for a tree that the guard's file
//     does not cover, durably.
//   - The guard never names a tree that the directory does not durably hold, entries
//     included. So a directory that is behind its guard is not the newest one.
//   - Each tree in the guard continues the one before it.
//
// The process may stop at any point. The directory on the disk is then equal to the guard or
// ahead of it by entries without delivered SCTs; the next start advances the guard.
type guard struct {
	directory directory
	path      string
	now       func() time.Time
	observe   func(time.Duration)

	mu     sync.Mutex                // held while the guard advances
	newest atomic.Pointer[guardFile] // the content of the file; written under mu
	writes int64                     // of slots; under mu; 0 while the file may have none
}

// cover returns nil as soon as the guard covers a tree of at least the given size; from then
// on, the log may promise the entries below it. Callers that arrive while the guard advances
// wait, and mostly the next advance covers all of them: one fsync a batch.
func (g *guard) cover(size uint64) error {
	if g.newest.Load().TreeSize >= size {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.newest.Load().TreeSize >= size {
		return nil
	}
	head, err := g.directory.head()
	if err != nil {
		return err
	}
	if head.Size < size {
		return fmt.Errorf("%w: it has %d entries, though entry %d has just been stored", errOlder, head.Size, size-1)
	}
	return g.move(head)
}

// admit returns nil if a tree head may be signed: the guard covers it, and it is a part of
// the guard's history.
func (g *guard) admit(head reader.Head) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	newest := g.newest.Load().head()
	if head.Size >= newest.Size {
		return g.move(head)
	}
	// Another batch has advanced the guard beyond this checkpoint.
	return g.directory.consistent(head, newest)
}

// move proves that head continues the guard's tree and is on the disk, and then writes it to
// the file. The caller holds mu.
func (g *guard) move(head reader.Head) error {
	newest := g.newest.Load().head()
	if head == newest {
		return nil
	}
	start := time.Now()
	// Makes the tree head durable. Tiles are durable before Tessera writes the head.
	if err := files.SyncFolder(filepath.Join(g.directory.path, stateDir)); err != nil {
		return fmt.Errorf("syncing tree head: %w", err)
	}
	if err := g.directory.consistent(newest, head); err != nil {
		return err
	}
	if err := g.directory.checkEntries(newest.Size, head.Size, head.Size, nil); err != nil {
		return err
	}
	file := g.newest.Load().at(head, g.now())
	content, err := file.marshal()
	if err == nil {
		err = g.write(content)
	}
	if err != nil {
		return explain(g.path, fmt.Errorf("writing guard: %w", err))
	}
	g.newest.Store(file)
	g.observe(time.Since(start))
	return nil
}

// write makes the guard durable, in two slots in turns: a new file would cost its creation, a rename and three
// fsyncs. No file stays open: an operator may remount the disk. The caller holds mu.
func (g *guard) write(object []byte) error {
	slot := seal(object)
	f, err := os.OpenFile(g.path, os.O_WRONLY|syscall.O_DSYNC|syscall.O_NOFOLLOW, 0)
	if err == nil && g.writes > 0 {
		_, err = f.WriteAt(slot, g.writes%2*slotSize)
	}
	if err = errors.Join(err, f.Close()); err != nil || g.writes == 0 {
		err = files.WriteDurably(g.path, slices.Concat(slot, slot), 0o644)
	}
	if err == nil {
		g.writes++
	}
	return err
}

// settle leaves one object in the file, for people and for earlier versions. Without it, the slots stay valid.
func (g *guard) settle() {
	g.mu.Lock()
	defer g.mu.Unlock()
	content, err := g.newest.Load().marshal()
	if g.writes > 0 && err == nil {
		g.writes = 0
		_ = files.WriteDurably(g.path, content, 0o644)
	}
}
