// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bufio"
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

	"github.com/mayfly-ca/mayfly/internal/files"
)

const (
	hashSize  = 32
	tileWidth = layout.TileWidth
	// maxTileLevel is the highest level that static-ct-api knows.
	maxTileLevel = 5
	// maxTreeState bounds the size of Tessera's state file, which has about 80 bytes.
	maxTreeState = 4 << 10
)

// The files that a log's directory holds beside Tessera's tiles. The checkpoint, and
// everything in stateDir except the probe, belong to Tessera (storage/posix).
const (
	stateDir       = ".state"
	treeStateFile  = stateDir + "/treeState"
	treeStateLock  = stateDir + "/treeState.lock"
	probeFile      = stateDir + "/probe"
	checkpointFile = "checkpoint"
	issuerDir      = "issuer"
	lockFile       = "writer.lock"
)

// errDamaged: the files on the disk cannot be those that the log wrote.
var errDamaged = errors.New("the log's directory is damaged")

// directory reads the files that Tessera writes. It holds no state.
//
// Every tile is read as it is in the tree of one given size, from the newest file for that
// size. A process that stopped before it committed a larger tree may leave files under other
// names, which directory never reads.
type directory struct{ path string }

// head returns the newest integrated tree. The rename that installed it may not be durable
// yet: see guard.move.
func (d directory) head() (treeHead, error) {
	content, err := files.Read(filepath.Join(d.path, treeStateFile), maxTreeState)
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
	if err := json.Unmarshal(content, &state); err != nil || len(state.Root) != hashSize {
		return treeHead{}, fmt.Errorf("%w: %s is unreadable", errDamaged, treeStateFile)
	}
	return treeHead{state.Size, [hashSize]byte(state.Root)}, nil
}

// checkpoint returns the published checkpoint. v verifies it, unless it is the known one.
func (d directory) checkpoint(v noteVerifier, known *checkpoint) (*checkpoint, error) {
	raw, err := files.Read(filepath.Join(d.path, checkpointFile), maxCheckpoint)
	if err == nil && known != nil && bytes.Equal(raw, known.raw) {
		return known, nil
	}
	var c *checkpoint
	if err == nil {
		c, err = parseCheckpoint(raw, v)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: its checkpoint is missing or unreadable: %w", errDamaged, err)
	}
	return c, nil
}

// width returns how many hashes a tile has in a tree of the given size (static-ct-api,
// section "Partial Tiles").
func width(level, index, size uint64) int {
	atLevel := size >> (layout.TileHeight * level)
	if first := index * tileWidth; first < atLevel {
		return int(min(atLevel-first, tileWidth))
	}
	return 0
}

// open opens a file of the tree of the given size: the one with the tile's exact width, or the
// full one once the tile is full.
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
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading tile: %w", err)
	case len(content) < wide*hashSize || len(content) > tileWidth*hashSize:
		return nil, fmt.Errorf("%w: %s has %d bytes where %d are due", errDamaged, path(uint8(wide%tileWidth)), len(content), wide*hashSize)
	default:
		return content[:wide*hashSize], nil
	}
}

// dataTilePath returns the path of a tile's entries (static-ct-api, section "Log entries").
func dataTilePath(index uint64, partial uint8) string {
	return "tile/data/" + layout.NWithSuffix(0, index, partial)
}

// openData opens a data tile in a tree of the given size; the file may have entries of a later
// tree. Beyond the tree it returns fs.ErrNotExist.
func (d directory) openData(index, size uint64) (*os.File, error) {
	wide := width(0, index, size)
	if wide == 0 {
		return nil, fs.ErrNotExist
	}
	return d.open(func(partial uint8) string { return dataTilePath(index, partial) }, wide)
}

// entries yields the entries from first to before end of a tree of the given size. It stops after
// an error. It holds one entry in memory: a tile of 256 large certificates has 32 MiB.
func (d directory) entries(first, end, size uint64) iter.Seq2[*tileLeaf, error] {
	return func(yield func(*tileLeaf, error) bool) {
		end = min(end, size)
		for tile := first / tileWidth; tile*tileWidth < end; tile++ {
			if !d.tileEntries(tile, end, size, func(leaf *tileLeaf, err error) bool {
				return err == nil && leaf.index < first || yield(leaf, err)
			}) {
				return
			}
		}
	}
}

// tileEntries yields the entries of one data tile, up to before end. It reports whether it has read
// all.
func (d directory) tileEntries(tile, end, size uint64, yield func(*tileLeaf, error) bool) bool {
	file, err := d.openData(tile, size)
	if err != nil {
		yield(nil, err)
		return false
	}
	defer func() { _ = file.Close() }()
	r := bufio.NewReaderSize(file, 32<<10)
	for index := tile * tileWidth; index < min(end, (tile+1)*tileWidth); index++ {
		leaf, err := readTileLeaf(r)
		if err == nil && leaf.index != index {
			err = fmt.Errorf("it has the index %d", leaf.index)
		}
		if err != nil && !errors.As(err, new(*fs.PathError)) { // the file is readable, and holds no valid entry
			err = fmt.Errorf("%w: %s: entry %d: %w", errDamaged, file.Name(), index, err)
		}
		if !yield(leaf, err) || err != nil {
			return false
		}
	}
	return true
}

// tileReader reads tiles for Tessera's client from the tree of one size, which may be larger
// than the tree of a proof. It keeps the error, since the client drops its kind.
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

// proof returns the hashes of a proof for the tree of the given size, from the tiles of a later
// tree.
func (d directory) proof(ctx context.Context, size, later uint64, build func(*client.ProofBuilder) ([][]byte, error)) ([][]byte, error) {
	tiles := &tileReader{directory: d, size: later}
	builder, err := client.NewProofBuilder(ctx, size, tiles.fetch)
	var hashes [][]byte
	if err == nil {
		hashes, err = build(builder)
	}
	if err != nil {
		return nil, tiles.explain(err)
	}
	return hashes, nil
}

// root computes the head of the tree of the given size from its right edge.
func (d directory) root(ctx context.Context, size uint64) (treeHead, error) {
	if size == 0 {
		return emptyTree(), nil
	}
	tiles := &tileReader{directory: d, size: size}
	hashes, err := client.FetchRangeNodes(ctx, size, tiles.fetch)
	var root []byte
	if err == nil {
		var edge *compact.Range
		if edge, err = (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewRange(0, size, hashes); err == nil {
			root, err = edge.GetRootHash(nil)
		}
	}
	if err != nil {
		return treeHead{}, tiles.explain(err)
	}
	return treeHead{size, [hashSize]byte(root)}, nil
}

// errInconsistent: one of two trees does not continue the other.
var errInconsistent = errors.New("the trees are inconsistent")

// consistent proves with the tiles of the tree newer that newer continues the tree older (RFC
// 6962, section 2.1.2).
func (d directory) consistent(ctx context.Context, older, newer treeHead) error {
	switch {
	case older.size > newer.size:
		return fmt.Errorf("%w: %d entries cannot continue %d", errInconsistent, newer.size, older.size)
	case older == newer, older == emptyTree():
		return nil
	case older.size == newer.size, older.size == 0:
		return fmt.Errorf("%w: they have the same size %d and two roots", errInconsistent, older.size)
	}
	hashes, err := d.proof(ctx, newer.size, newer.size, func(b *client.ProofBuilder) ([][]byte, error) {
		return b.ConsistencyProof(ctx, older.size, newer.size)
	})
	if err != nil {
		return err
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, older.size, newer.size, hashes, older.root[:], newer.root[:]); err != nil {
		// The proof's own error lists the differing hashes on several lines.
		return fmt.Errorf("%w: %d entries do not continue %d", errInconsistent, newer.size, older.size)
	}
	return nil
}

// checkEntries proves that the entries from first to before end are on the disk, each with the hash
// that the tree has for it, and calls check for each, unless it is nil.
func (d directory) checkEntries(first, end, size uint64, check func(*tileLeaf) error) error {
	var hashes []byte
	for leaf, err := range d.entries(first, end, size) {
		if err != nil {
			return err
		}
		at := leaf.index % tileWidth * hashSize
		if hashes == nil || at == 0 {
			if hashes, err = d.hashTile(0, leaf.index/tileWidth, size); err != nil {
				return err
			}
		}
		if !bytes.Equal(leaf.hash(), hashes[at:at+hashSize]) {
			return fmt.Errorf("%w: entry %d has not the hash that the tree has for it", errDamaged, leaf.index)
		}
		if check == nil {
			continue
		}
		if err := check(leaf); err != nil {
			return err
		}
	}
	return nil
}

// verify proves that the directory continues the guard's tree and its own checkpoint, and is
// complete at its right edge, where the next entries go. It changes nothing, and returns the
// directory's tree.
func (d directory) verify(ctx context.Context, guard, published treeHead) (treeHead, error) {
	head, err := d.head()
	if err != nil {
		return head, err
	}
	if head.size < published.size {
		return head, fmt.Errorf("%w: its tree has %d entries, its checkpoint %d", errOlder, head.size, published.size)
	}
	if head.size < guard.size {
		return head, fmt.Errorf("%w: it has %d entries", errOlder, head.size)
	}
	computed, err := d.root(ctx, head.size)
	if err == nil && computed != head {
		err = fmt.Errorf("%w: its tiles do not add up to the root hash in %s", errDamaged, treeStateFile)
	}
	for _, older := range []treeHead{published, guard} {
		if err == nil {
			err = d.consistent(ctx, older, head)
		}
	}
	if err == nil && head.size > 0 {
		err = d.checkEntries(min((head.size-1)/tileWidth*tileWidth, guard.size), head.size, head.size, nil)
	}
	return head, err
}
