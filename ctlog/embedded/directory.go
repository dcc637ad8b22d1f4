// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"

	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

const (
	hashSize  = 32
	tileWidth = layout.TileWidth
	// maxTileLevel is the highest level that static-ct-api knows.
	maxTileLevel = 5
	// maxTreeState bounds the size of Tessera's state file, which has about 80 bytes.
	maxTreeState = 4 << 10
)

// The files of a log's directory beside the tiles. The checkpoint and stateDir belong to Tessera.
const (
	stateDir       = ".state"
	treeStateFile  = stateDir + "/treeState"
	treeStateLock  = stateDir + "/treeState.lock"
	checkpointFile = "checkpoint"
	issuerDir      = "issuer"
	lockFile       = "writer.lock"
)

var (
	// errDamaged: the files on the disk cannot be those that the log wrote.
	errDamaged = errors.New("the log's directory is damaged")
	// errOlder: the directory is behind the guard.
	errOlder   = errors.New("its directory is older than its guard")
	errStopped = errors.New("the caller reads no more entries")
	// errInconsistent: one of two trees does not continue the other.
	errInconsistent = errors.New("the trees are inconsistent")
)

// directory reads the files that Tessera writes. It holds no state.
//
// Every tile is read as it is in the tree of one given size, from the newest file for that
// size. A process that stopped before it committed a larger tree may leave files under other
// names, which directory never reads.
type directory struct{ path string }

// head returns the newest integrated tree. The rename that installed it may not be durable
// yet: see guard.move.
func (d directory) head() (reader.Head, error) {
	content, err := files.Read(filepath.Join(d.path, treeStateFile), maxTreeState)
	if errors.Is(err, fs.ErrNotExist) {
		return reader.Head{}, fmt.Errorf("%w: %s is missing", errDamaged, treeStateFile)
	}
	if err != nil {
		return reader.Head{}, fmt.Errorf("reading tree head: %w", err)
	}
	var state struct {
		Size uint64 `json:"size"`
		Root []byte `json:"root"`
	}
	if err := json.Unmarshal(content, &state); err != nil || len(state.Root) != hashSize {
		return reader.Head{}, fmt.Errorf("%w: %s is unreadable", errDamaged, treeStateFile)
	}
	return reader.Head{Size: state.Size, Root: [hashSize]byte(state.Root)}, nil
}

// checkpoint returns the published checkpoint. v verifies it, unless it is the known one.
func (d directory) checkpoint(v reader.NoteVerifier, known *reader.Checkpoint) (c *reader.Checkpoint, err error) {
	raw, err := files.Read(filepath.Join(d.path, checkpointFile), reader.MaxCheckpoint)
	if err == nil && known != nil && bytes.Equal(raw, known.Raw) {
		return known, nil
	}
	if err == nil {
		c, err = reader.ParseCheckpoint(raw, v)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: its checkpoint is missing or unreadable: %w", errDamaged, err)
	}
	return c, nil
}

// tile names a tile of hashes, or of entries, which has level 0.
type tile struct {
	data         bool
	level, index uint64
}

// path returns the tile's name (static-ct-api); partial is 0 for a full tile.
func (t tile) path(partial uint8) string {
	if t.data {
		return "tile/data/" + layout.NWithSuffix(0, t.index, partial)
	}
	return layout.TilePath(t.level, t.index, partial)
}

// width returns how many hashes or entries a tile has in a tree of the given size (static-ct-api,
// section "Partial Tiles").
func (t tile) width(size uint64) int {
	atLevel := size >> (layout.TileHeight * t.level)
	if first := t.index * tileWidth; first < atLevel {
		return int(min(atLevel-first, tileWidth))
	}
	return 0
}

// open opens a tile of the tree of the given size: the file with the tile's exact width, or the full
// one once the tile is full. It may have more than the tree. Beyond the tree it returns fs.ErrNotExist.
func (d directory) open(t tile, size uint64) (*os.File, error) {
	wide := t.width(size)
	if wide == 0 {
		return nil, fs.ErrNotExist
	}
	exact := t.path(uint8(wide % tileWidth))
	file, err := os.Open(filepath.Join(d.path, exact))
	if errors.Is(err, fs.ErrNotExist) && wide < tileWidth {
		file, err = os.Open(filepath.Join(d.path, t.path(0)))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing", errDamaged, exact)
	}
	if err != nil {
		return nil, fmt.Errorf("reading tile: %w", err)
	}
	return file, nil
}

// hashTile returns the hashes of a tile, exactly as many as it has in a tree of the given size.
func (d directory) hashTile(t tile, size uint64) ([]byte, error) {
	file, err := d.open(t, size)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	content := make([]byte, tileWidth*hashSize+1)
	n, err := io.ReadFull(file, content)
	length := t.width(size) * hashSize
	switch {
	case err != nil && err != io.EOF && err != io.ErrUnexpectedEOF:
		return nil, fmt.Errorf("reading tile: %w", err)
	case n < length || n > tileWidth*hashSize:
		return nil, fmt.Errorf("%w: %s has %d bytes; %d are expected", errDamaged, file.Name(), n, length)
	default:
		return content[:length], nil
	}
}

// entries yields the entries from first to before end of a tree of the given size. It stops after
// an error. It holds one entry in memory: a tile of 256 large certificates has 32 MiB.
func (d directory) entries(first, end, size uint64) iter.Seq2[*reader.Entry, error] {
	return func(yield func(*reader.Entry, error) bool) {
		end = min(end, size)
		for index := first / tileWidth * tileWidth; index < end; {
			file, err := d.open(tile{data: true, index: index / tileWidth}, size)
			if err != nil {
				yield(nil, err)
				return
			}
			r := bufio.NewReaderSize(file, 32<<10)
			for stop := min(end, index+tileWidth); index < stop && err == nil; index++ {
				var leaf *reader.Entry
				if leaf, err = reader.ReadEntry(r); err == nil && leaf.Index != index {
					err = fmt.Errorf("it has the index %d", leaf.Index)
				}
				if err != nil && !errors.As(err, new(*fs.PathError)) { // the file is readable, and holds no valid entry
					err = fmt.Errorf("%w: %s: entry %d: %w", errDamaged, file.Name(), index, err)
				}
				if (err != nil || index >= first) && !yield(leaf, err) {
					err = errStopped
				}
			}
			_ = file.Close()
			if err != nil {
				return
			}
		}
	}
}

// nodes returns the hashes of nodes from the tiles of the tree of the given size.
func (d directory) nodes(ids []compact.NodeID, size uint64, kept *keptTiles) ([][]byte, error) {
	hashes := make([][]byte, 0, len(ids))
	var last *tileNodes // nodes of a tile are next to each other
	for _, id := range ids {
		level, index, inLevel, inIndex := layout.NodeCoordsToTileAddress(uint64(id.Level), id.Index)
		t := tile{level: level, index: index}
		if last == nil || last.tile != t {
			var err error
			if last, err = d.tileNodes(t, size, kept); err != nil {
				return nil, err
			}
		}
		hashes = append(hashes, last.node(tileWidth>>inLevel+inIndex))
	}
	return hashes, nil
}

// keptTiles has tiles above level 0 of published trees, in at most 4 MiB: those that many proofs need. nil keeps none.
type keptTiles [256]atomic.Pointer[tileNodes]

// tileNodes has the nodes of a tile, which never change: a larger log only adds some. The root is node 1, and the
// children of node i are nodes 2i and 2i+1. A node that is not complete is empty.
type tileNodes struct {
	tile
	width  int
	hashes [2 * tileWidth * hashSize]byte
}

func (n *tileNodes) node(i uint64) []byte { return n.hashes[i*hashSize:][:hashSize] }

// tileNodes returns the nodes of a tile in a tree of the given size.
func (d directory) tileNodes(t tile, size uint64, kept *keptTiles) (*tileNodes, error) {
	place := new(atomic.Pointer[tileNodes])
	if kept != nil && t.level > 0 {
		place = &kept[(t.index+t.level-1)%uint64(len(kept))]
	}
	if known := place.Load(); known != nil && known.tile == t && known.width >= t.width(size) {
		return known, nil
	}
	leaves, err := d.hashTile(t, size)
	if err != nil {
		return nil, err
	}
	n := &tileNodes{tile: t, width: t.width(size)}
	copy(n.hashes[tileWidth*hashSize:], leaves)
	children := [1 + 2*hashSize]byte{rfc6962.RFC6962NodeHashPrefix}
	for first, width := uint64(tileWidth/2), uint64(n.width/2); width > 0; first, width = first/2, width/2 {
		for i := first; i < first+width; i++ {
			copy(children[1:], n.hashes[2*i*hashSize:])
			hash := sha256.Sum256(children[:])
			copy(n.node(i), hash[:])
		}
	}
	place.Store(n)
	return n, nil
}

// proof returns the hashes of a proof, from the tiles of a tree that is large enough.
func (d directory) proof(nodes proof.Nodes, size uint64, kept *keptTiles) ([][]byte, error) {
	hashes, err := d.nodes(nodes.IDs, size, kept)
	if err != nil {
		return nil, err
	}
	return nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
}

// root computes the head of the tree of the given size from its right edge.
func (d directory) root(size uint64) (reader.Head, error) {
	if size == 0 {
		return reader.EmptyTree(), nil
	}
	hashes, err := d.nodes(compact.RangeNodes(0, size, nil), size, nil)
	if err != nil {
		return reader.Head{}, err
	}
	last := len(hashes) - 1
	root := hashes[last]
	for _, left := range slices.Backward(hashes[:last]) {
		root = rfc6962.DefaultHasher.HashChildren(left, root)
	}
	return reader.Head{Size: size, Root: [hashSize]byte(root)}, nil
}

// consistent proves with the tiles of the tree newer that newer continues the tree older (RFC
// 6962, section 2.1.2).
func (d directory) consistent(older, newer reader.Head) error {
	if older == newer || older == reader.EmptyTree() {
		return nil
	}
	nodes, err := proof.Consistency(older.Size, newer.Size)
	if err == nil && older.Size > 0 && older.Size < newer.Size {
		hashes, errTiles := d.proof(nodes, newer.Size, nil)
		if errTiles != nil {
			return errTiles
		}
		if proof.VerifyConsistency(rfc6962.DefaultHasher, older.Size, newer.Size, hashes, older.Root[:], newer.Root[:]) == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: %d entries do not continue %d", errInconsistent, newer.Size, older.Size)
}

// checkEntries proves that the entries from first to before end are on the disk, each with the hash
// that the tree has for it, and calls check for each, unless it is nil.
func (d directory) checkEntries(first, end, size uint64, check func(*reader.Entry) error) error {
	var hashes []byte
	for leaf, err := range d.entries(first, end, size) {
		if err != nil {
			return err
		}
		at := leaf.Index % tileWidth * hashSize
		if hashes == nil || at == 0 {
			if hashes, err = d.hashTile(tile{index: leaf.Index / tileWidth}, size); err != nil {
				return err
			}
		}
		if !bytes.Equal(leaf.Hash(), hashes[at:at+hashSize]) {
			return fmt.Errorf("%w: entry %d has not the hash that the tree has for it", errDamaged, leaf.Index)
		}
		if check != nil {
			if err := check(leaf); err != nil {
				return err
			}
		}
	}
	return nil
}

// verify proves that the directory continues the guard's tree and its own checkpoint, and is
// complete at its right edge, where the next entries go. It changes nothing, and returns the
// directory's tree.
func (d directory) verify(guard, published reader.Head) (reader.Head, error) {
	head, err := d.head()
	if err != nil {
		return head, err
	}
	if most := max(guard.Size, published.Size); head.Size < most {
		return head, fmt.Errorf("%w: its tree has %d entries, its checkpoint or its guard %d", errOlder, head.Size, most)
	}
	computed, err := d.root(head.Size)
	if err == nil && computed != head {
		err = fmt.Errorf("%w: its tiles do not add up to the root hash in %s", errDamaged, treeStateFile)
	}
	for _, older := range []reader.Head{published, guard} {
		if err == nil {
			err = d.consistent(older, head)
		}
	}
	if err == nil && head.Size > 0 {
		err = d.checkEntries(min((head.Size-1)/tileWidth*tileWidth, guard.Size), head.Size, head.Size, nil)
	}
	return head, err
}

// maxDisorder is how much earlier an entry may be than one before it: the log assigns timestamps
// before indexes, and clocks may be adjusted.
const maxDisorder = time.Hour

// Source returns the log in cfg.Dir for reading, also while another process writes it. It has every
// entry in the tree, published or not.
func Source(cfg Config) (*reader.Source, error) {
	if _, err := os.Stat(filepath.Join(cfg.Dir, stateDir)); errors.Is(err, fs.ErrNotExist) {
		return nil, keypath.Errorf([]string{"dir"}, "%s holds no log", cfg.Dir)
	}
	d := directory{cfg.Dir}
	head, err := d.head()
	if err != nil {
		return nil, fmt.Errorf("reading the log in %s: %w", cfg.Dir, err)
	}
	read := func(_ context.Context, first, end uint64) (entries []*reader.Entry, err error) {
		for entry, err := range d.entries(first, end, head.Size) {
			if err != nil {
				return nil, fmt.Errorf("reading the log in %s: %w", cfg.Dir, err)
			}
			entries = append(entries, entry)
		}
		return entries, nil
	}
	return &reader.Source{Head: head, Disorder: maxDisorder, Read: read, Parallel: 1, Index: d.index(head.Size)}, nil
}
