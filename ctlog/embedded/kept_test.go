// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
)

// writeTiles writes the tiles of hashes of trees of these sizes, the largest of which has these leaves.
func writeTiles(t *testing.T, leaves [][]byte, sizes []uint64) directory {
	t.Helper()
	d := directory{t.TempDir()}
	for level, hashes := uint64(0), leaves; len(hashes) > 0; level++ {
		var above [][]byte
		for index := uint64(0); index*tileWidth < uint64(len(hashes)); index++ {
			tile := tile{level: level, index: index}
			for _, size := range sizes {
				width := tile.width(size)
				path := filepath.Join(d.path, tile.path(uint8(width%tileWidth)))
				if _, err := os.Stat(path); width == 0 || err == nil {
					continue
				}
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				write(t, path, bytes.Join(hashes[index*tileWidth:][:width], nil))
			}
			if whole := hashes[index*tileWidth:]; len(whole) >= tileWidth {
				above = append(above, rootOf(whole[:tileWidth]))
			}
		}
		hashes = above
	}
	return d
}

// rootOf is the root of a perfect tree as the library hashes it.
func rootOf(leaves [][]byte) []byte {
	if len(leaves) == 1 {
		return leaves[0]
	}
	middle := len(leaves) / 2
	return rfc6962.DefaultHasher.HashChildren(rootOf(leaves[:middle]), rootOf(leaves[middle:]))
}

// Proofs from tiles, kept or not, are those of the library's tree, whatever the order of the sizes.
func TestProofsFromKeptTiles(t *testing.T) {
	t.Parallel()
	const most = tileWidth*tileWidth + 3*tileWidth + 7 // has three levels
	sizes := []uint64{1, 255, 256, 257, 3000, 20_000, most - 3*tileWidth - 7, most - 300, most - 1, most}
	tree, leaves := testonly.New(rfc6962.DefaultHasher), make([][]byte, most)
	for i := range leaves {
		leaf := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
		leaves[i] = leaf[:]
	}
	tree.Append(leaves...)
	d := writeTiles(t, leaves, sizes)
	var kept keptTiles
	for _, size := range slices.Concat(sizes, []uint64{3000, most - 300, 257, most}) {
		for i := range uint64(50) {
			index := i * 7919 % size
			nodes, err := proof.Inclusion(index, size)
			if err != nil {
				t.Fatal(err)
			}
			expected, _ := tree.InclusionProof(index, size)
			compareProofs(t, d, &kept, nodes, size, expected)
			if index == 0 {
				continue
			}
			if nodes, err = proof.Consistency(index, size); err != nil {
				t.Fatal(err)
			}
			expected, _ = tree.ConsistencyProof(index, size)
			compareProofs(t, d, &kept, nodes, size, expected)
		}
		if head, err := d.root(size); err != nil || !bytes.Equal(head.Root[:], tree.HashAt(size)) {
			t.Errorf("size %d: %v", size, err)
		}
	}
	full := tile{level: 1}
	if err := os.Remove(filepath.Join(d.path, full.path(0))); err != nil {
		t.Fatal(err)
	}
	if _, err := d.tileNodes(full, most, &kept); err != nil {
		t.Errorf("a full tile above level 0 is not kept: %v", err)
	}
	if _, err := d.tileNodes(full, most, nil); !errors.Is(err, errDamaged) {
		t.Errorf("a missing tile: %v", err)
	}
	first, errFirst := d.tileNodes(tile{}, most, &kept)
	if again, err := d.tileNodes(tile{}, most, &kept); errors.Join(errFirst, err) != nil || again == first {
		t.Errorf("a tile of level 0 is kept: %v, %v", errFirst, err)
	}
}

func compareProofs(t *testing.T, d directory, kept *keptTiles, nodes proof.Nodes, size uint64, expected [][]byte) {
	t.Helper()
	for _, kept := range []*keptTiles{nil, kept} {
		if hashes, err := d.proof(nodes, size, kept); err != nil || !slices.EqualFunc(hashes, expected, bytes.Equal) {
			t.Fatalf("size %d, kept %t: %v", size, kept != nil, err)
		}
	}
}
