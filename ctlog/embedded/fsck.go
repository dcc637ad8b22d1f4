// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
)

// maxFindings bounds what one Fsck reports.
const maxFindings = 100

// Fsck reads the whole log, including entries that no checkpoint covers yet, since the log has
// given SCTs for them. It proves that every tile of hashes follows from the entries or from the
// tiles below it, and the tree from the tiles. It also proves that the tree continues the
// checkpoint and the guard, and that every issuer is present. It changes nothing, and may run
// while the log is in use. It returns the number of checked entries, and every error that it
// found.
//
// The tests also use Tessera's checker; but it hangs on the first wrong tile (v1.0.4: its
// workers stop with their first error, and the goroutine that feeds them then blocks).
func Fsck(ctx context.Context, cfg Config) (uint64, error) {
	cfg, key, err := cfg.complete()
	if err != nil {
		return 0, err
	}
	f := &checker{directory: directory{cfg.Dir}, issuers: newIssuers(cfg.Dir)}
	// In this order: a log in use grows meanwhile, but guard and checkpoint never pass its tree.
	guard, guardErr := readGuard(cfg.Guard, cfg.Origin, key.id)
	f.found(guardErr)
	published, publishedErr := readCheckpoint(f.directory, cfg.Origin, key)
	f.found(publishedErr)
	f.head, err = f.directory.head()
	switch {
	case err == nil:
	case publishedErr == nil:
		// The entries under the checkpoint can still be checked.
		f.found(err)
		f.head = published.head
	default:
		f.found(err)
		return 0, f.report(cfg.Name)
	}
	f.check(ctx)
	if publishedErr == nil {
		f.found(checkPublished(ctx, f.directory, published.head))
	}
	if guardErr == nil {
		f.found(f.continues(ctx, guard.head()))
	}
	return f.head.size, f.report(cfg.Name)
}

// checker checks one tree. It continues after errors.
type checker struct {
	directory
	issuers  *issuers
	head     treeHead
	findings []error
}

func (f *checker) found(err error) {
	if err != nil && len(f.findings) < maxFindings {
		f.findings = append(f.findings, err)
	}
}

// report returns everything that checker found.
func (f *checker) report(name string) error {
	if len(f.findings) == 0 {
		return nil
	}
	return fmt.Errorf("checking log %s: %w", name, errors.Join(f.findings...))
}

// continues checks that the tree is not behind the guard's, and continues it.
func (f *checker) continues(ctx context.Context, guard treeHead) error {
	if f.head.size < guard.size {
		return fmt.Errorf("%w: it has %d entries, and the guard %d", errOlder, f.head.size, guard.size)
	}
	if err := f.consistent(ctx, guard, f.head); err != nil {
		return fmt.Errorf("the guard: %w", err)
	}
	return nil
}

func (f *checker) check(ctx context.Context) {
	for index := uint64(0); width(0, index, f.head.size) > 0 && ctx.Err() == nil; index++ {
		f.found(f.entries(index))
	}
	for level := uint64(1); level <= maxTileLevel; level++ {
		for index := uint64(0); width(level, index, f.head.size) > 0 && ctx.Err() == nil; index++ {
			f.found(f.tile(level, index))
		}
	}
	f.found(ctx.Err())
	root, err := f.root(ctx, f.head.size)
	if err == nil && root != f.head {
		err = fmt.Errorf("%w: its tiles do not add up to its root hash", errDamaged)
	}
	f.found(err)
}

// entries checks a data tile, the tile of its hashes, and the issuers of its entries.
func (f *checker) entries(index uint64) error {
	hashes, err := f.hashTile(0, index, f.head.size)
	if err != nil {
		return err
	}
	for leaf, err := range f.directory.entries(index, f.head.size) {
		if err != nil {
			return err
		}
		at := leaf.index % tileWidth * hashSize
		if !bytes.Equal(leaf.hash(), hashes[at:at+hashSize]) {
			return fmt.Errorf("%w: entry %d has not the hash that the tree has for it", errDamaged, leaf.index)
		}
		for _, fingerprint := range leaf.fingerprints() {
			if _, err := f.issuers.get(fingerprint); err != nil {
				return fmt.Errorf("the issuer %x of entry %d: %w", fingerprint, leaf.index, err)
			}
		}
	}
	return nil
}

// tile checks a tile of hashes against the full tiles below it.
func (f *checker) tile(level, index uint64) error {
	hashes, err := f.hashTile(level, index, f.head.size)
	if err != nil {
		return err
	}
	for i := range len(hashes) / hashSize {
		below, err := f.hashTile(level-1, index*tileWidth+uint64(i), f.head.size)
		if err != nil {
			return err
		}
		if !bytes.Equal(subtreeRoot(below), hashes[i*hashSize:(i+1)*hashSize]) {
			return fmt.Errorf("%w: hash %d of %s is not that of the tile below it", errDamaged, i, layout.TilePath(level, index, uint8(len(hashes)/hashSize%tileWidth)))
		}
	}
	return nil
}

// subtreeRoot returns the hash over a full tile.
func subtreeRoot(tile []byte) []byte {
	level := tile
	for len(level) > hashSize {
		above := make([]byte, 0, len(level)/2)
		for ; len(level) > 0; level = level[2*hashSize:] {
			above = append(above, rfc6962.DefaultHasher.HashChildren(level[:hashSize], level[hashSize:2*hashSize])...)
		}
		level = above
	}
	return level
}
