// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
)

const (
	hashSize  = 32
	tileWidth = layout.TileWidth
	// maxTileLevel is the highest level that static-ct-api knows.
	maxTileLevel = 5
	// maxTreeState bounds what is read of Tessera's state file, which has about 80 bytes.
	maxTreeState = 4 << 10
)

// What the directory of a log holds beside Tessera's tiles. All in stateDir but our probe is
// Tessera's own (storage/posix), and so is the checkpoint.
const (
	stateDir       = ".state"
	treeStateFile  = stateDir + "/treeState"
	treeStateLock  = stateDir + "/treeState.lock"
	probeFile      = stateDir + "/probe"
	checkpointFile = "checkpoint"
	issuerDir      = "issuer"
	lockFile       = "writer.lock"
)

// errDamaged: what is on the disk cannot be what was written.
var errDamaged = errors.New("the log's directory is damaged")

// directory reads the files that Tessera writes. It holds no state.
//
// Every tile is read as the tree of one given size has it, from the newest file that there is
// for that size. What a process wrote for a larger tree that it did not live to commit may
// still lie about under other names, and is never looked at.
type directory struct{ path string }

// head returns the newest integrated tree. The rename that put it there may not be durable
// yet: see commit.
func (d directory) head() (treeHead, error) {
	content, err := os.ReadFile(filepath.Join(d.path, treeStateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return treeHead{}, fmt.Errorf("%w: %s is missing", errDamaged, treeStateFile)
	}
	if err != nil {
		return treeHead{}, fmt.Errorf("reading tree head: %w", err)
	}
	var state struct {
		Size uint64 `json:"size"`
		Root []byte `json:"root"`
	}
	if err := json.Unmarshal(content, &state); err != nil || len(content) > maxTreeState || len(state.Root) != hashSize {
		return treeHead{}, fmt.Errorf("%w: %s is unreadable", errDamaged, treeStateFile)
	}
	return treeHead{state.Size, [hashSize]byte(state.Root)}, nil
}

// commit makes every tree head that head has returned before durable. Tiles are durable
// before Tessera writes the head.
func (d directory) commit() error {
	if err := syncDir(filepath.Join(d.path, stateDir)); err != nil {
		return fmt.Errorf("syncing tree head: %w", err)
	}
	return nil
}

// checkpoint returns the published checkpoint as it is.
func (d directory) checkpoint() ([]byte, error) {
	return os.ReadFile(filepath.Join(d.path, checkpointFile))
}

// width is how many hashes a tile has in a tree of the given size (static-ct-api, section
// "Partial Tiles").
func width(level, index, size uint64) int {
	atLevel := size >> (layout.TileHeight * level)
	if first := index * tileWidth; first < atLevel {
		return int(min(atLevel-first, tileWidth))
	}
	return 0
}

// open opens a file of the tree of the given size: that of the tile's exact width, or the full
// one once the tile has become full.
func (d directory) open(path func(partial uint8) string, wide int) (*os.File, error) {
	file, err := os.Open(filepath.Join(d.path, path(uint8(wide%tileWidth))))
	if errors.Is(err, fs.ErrNotExist) && wide < tileWidth {
		file, err = os.Open(filepath.Join(d.path, path(0)))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing", errDamaged, path(uint8(wide%tileWidth)))
	}
	if err != nil {
		return nil, fmt.Errorf("reading tile: %w", err)
	}
	return file, nil
}

// hashTile returns the hashes of a tile, exactly as many as it has in a tree of the given
// size. Beyond the tree it returns fs.ErrNotExist.
func (d directory) hashTile(level, index, size uint64) ([]byte, error) {
	wide := width(level, index, size)
	if wide == 0 || level > maxTileLevel {
		return nil, fs.ErrNotExist
	}
	path := func(partial uint8) string { return layout.TilePath(level, index, partial) }
	file, err := d.open(path, wide)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(io.LimitReader(file, tileWidth*hashSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading tile: %w", err)
	}
	if len(content) < wide*hashSize || len(content) > tileWidth*hashSize {
		return nil, fmt.Errorf("%w: %s has %d bytes where %d are due", errDamaged, path(uint8(wide%tileWidth)), len(content), wide*hashSize)
	}
	return content[:wide*hashSize], nil
}

// dataTilePath is where the entries of a tile are (static-ct-api, section "Log entries").
func dataTilePath(index uint64, partial uint8) string {
	return "tile/data/" + layout.NWithSuffix(0, index, partial)
}

// openData opens a data tile in a tree of the given size, and returns how many entries the tree
// has of it; the file may have more. Beyond the tree it returns fs.ErrNotExist.
func (d directory) openData(index, size uint64) (*os.File, int, error) {
	wide := width(0, index, size)
	if wide == 0 {
		return nil, 0, fs.ErrNotExist
	}
	file, err := d.open(func(partial uint8) string { return dataTilePath(index, partial) }, wide)
	return file, wide, err
}

// entries yields the entries of a data tile in a tree of the given size. It ends after an error,
// which is fs.ErrNotExist beyond the tree.
func (d directory) entries(index, size uint64) iter.Seq2[*tileLeaf, error] {
	return func(yield func(*tileLeaf, error) bool) {
		file, wide, err := d.openData(index, size)
		if err != nil {
			yield(nil, err)
			return
		}
		defer func() { _ = file.Close() }()
		for leaf, err := range readTileLeaves(file, index*tileWidth, wide) {
			if err != nil && !errors.As(err, new(*fs.PathError)) { // what can be read, and is no entry
				err = fmt.Errorf("%w: %s: %w", errDamaged, dataTilePath(index, uint8(wide%tileWidth)), err)
			}
			if !yield(leaf, err) {
				return
			}
		}
	}
}

// entriesFrom yields the entries of a tree of the given size from the one with index start on. It
// ends after an error.
func (d directory) entriesFrom(start, size uint64) iter.Seq2[*tileLeaf, error] {
	return func(yield func(*tileLeaf, error) bool) {
		for index := start / tileWidth; index*tileWidth < size; index++ {
			for leaf, err := range d.entries(index, size) {
				if err == nil && leaf.index < start {
					continue
				}
				if !yield(leaf, err) || err != nil {
					return
				}
			}
		}
	}
}

// tileReader reads for Tessera's client out of the tree of one size, which may be larger than
// the one that a proof is about. It keeps the error, whose kind the client drops.
type tileReader struct {
	directory
	size uint64
	err  error
}

func (r *tileReader) fetch(_ context.Context, level, index uint64, _ uint8) ([]byte, error) {
	content, err := r.hashTile(level, index, r.size)
	if err != nil && r.err == nil {
		r.err = err
	}
	return content, err
}

// explain returns the cause of err, an error of Tessera's client.
func (r *tileReader) explain(err error) error {
	if r.err != nil {
		return r.err
	}
	return fmt.Errorf("%w: %w", errDamaged, err)
}

// proofs returns a builder of proofs for trees of up to the given size.
func (d directory) proofs(ctx context.Context, size uint64) (*client.ProofBuilder, *tileReader, error) {
	return d.proofsFor(ctx, size, size)
}

// proofsFor returns a builder of proofs for the tree of the given size, from the tiles of a
// later one.
func (d directory) proofsFor(ctx context.Context, size, later uint64) (*client.ProofBuilder, *tileReader, error) {
	tiles := &tileReader{directory: d, size: later}
	builder, err := client.NewProofBuilder(ctx, size, tiles.fetch)
	return builder, tiles, err
}

// root computes the head of the tree of the given size from its right edge.
func (d directory) root(ctx context.Context, size uint64) (treeHead, error) {
	if size == 0 {
		return emptyTree(), nil
	}
	tiles := &tileReader{directory: d, size: size}
	hashes, err := client.FetchRangeNodes(ctx, size, tiles.fetch)
	if err != nil {
		return treeHead{}, tiles.explain(err)
	}
	factory := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	r, err := factory.NewRange(0, size, hashes)
	if err != nil {
		return treeHead{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	root, err := r.GetRootHash(nil)
	if err != nil || len(root) != hashSize {
		return treeHead{}, fmt.Errorf("%w: its root cannot be computed", errDamaged)
	}
	return treeHead{size, [hashSize]byte(root)}, nil
}

// errInconsistent: of two trees, one is no continuation of the other.
var errInconsistent = errors.New("the trees are inconsistent")

// consistent proves with the tiles of the tree newer that it continues the tree older (RFC
// 6962, section 2.1.2).
func (d directory) consistent(ctx context.Context, older, newer treeHead) error {
	switch {
	case older.size > newer.size:
		return fmt.Errorf("%w: %d entries cannot continue %d", errInconsistent, newer.size, older.size)
	case older.size == 0:
		if older != emptyTree() {
			return fmt.Errorf("%w: the empty tree has another root", errInconsistent)
		}
		return nil
	case older.size == newer.size:
		if older != newer {
			return fmt.Errorf("%w: they have the same size %d and two roots", errInconsistent, older.size)
		}
		return nil
	}
	builder, tiles, err := d.proofs(ctx, newer.size)
	if err != nil {
		return err
	}
	hashes, err := builder.ConsistencyProof(ctx, older.size, newer.size)
	if err != nil {
		return tiles.explain(err)
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, older.size, newer.size, hashes, older.root[:], newer.root[:]); err != nil {
		// The proof's own error says which hashes differ, over several lines.
		return fmt.Errorf("%w: %d entries do not continue %d", errInconsistent, newer.size, older.size)
	}
	return nil
}

// stored proves that the entries from first to the end of the tree are on the disk, each under
// the hash that the tree has for it.
func (d directory) stored(first uint64, h treeHead) error {
	for index := first / tileWidth; index*tileWidth < h.size; index++ {
		hashes, err := d.hashTile(0, index, h.size)
		if err != nil {
			return err
		}
		for leaf, err := range d.entries(index, h.size) {
			if err != nil {
				return err
			}
			at := leaf.index % tileWidth * hashSize
			if leaf.index >= first && !bytes.Equal(leaf.hash(), hashes[at:at+hashSize]) {
				return fmt.Errorf("%w: entry %d has not the hash that the tree has for it", errDamaged, leaf.index)
			}
		}
	}
	return nil
}
