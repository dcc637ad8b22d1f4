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
	var findings []error
	found := func(err error) {
		var refusal *RefusedError
		if errors.As(err, &refusal) {
			err = refusal.Err
		}
		if err != nil && len(findings) < maxFindings {
			findings = append(findings, err)
		}
	}
	s, err := cfg.examine(ctx, key)
	found(err)
	if s.head.size == 0 && s.published != nil {
		s.head = s.published.head // the entries under the checkpoint can still be checked
	}
	d, issuers := directory{cfg.Dir}, newIssuers(cfg.Dir)
	for level := uint64(0); level <= maxTileLevel; level++ {
		for index := uint64(0); width(level, index, s.head.size) > 0 && ctx.Err() == nil; index++ {
			if level == 0 {
				found(d.checkEntries(index*tileWidth, (index+1)*tileWidth, s.head.size, func(leaf *tileLeaf) error {
					_, err := leaf.leafEntry(issuers)
					return err
				}))
			} else {
				found(d.checkTile(level, index, s.head.size))
			}
		}
	}
	found(ctx.Err())
	if len(findings) > 0 {
		err = fmt.Errorf("checking log %s: %w", cfg.Name, errors.Join(findings...))
	}
	return s.head.size, err
}

// checkTile checks a tile of hashes against the full tiles below it.
func (d directory) checkTile(level, index, size uint64) error {
	hashes, err := d.hashTile(level, index, size)
	if err != nil {
		return err
	}
	for i := range len(hashes) / hashSize {
		below, err := d.hashTile(level-1, index*tileWidth+uint64(i), size)
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
	if len(tile) == hashSize {
		return tile
	}
	middle := len(tile) / 2
	return rfc6962.DefaultHasher.HashChildren(subtreeRoot(tile[:middle]), subtreeRoot(tile[middle:]))
}
