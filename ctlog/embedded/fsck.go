// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/tessera/api/layout"

	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

// maxFindings bounds what one Fsck reports.
const maxFindings = 100

// Fsck reads the whole log, including entries that no checkpoint covers yet, since the log has
// given SCTs for them. It proves that every tile of hashes follows from the entries or from the
// tiles below it, and the tree from the tiles; that the tree continues the checkpoint and the
// guard; and that every issuer is present. It changes nothing, and may run while the log is in
// use. It returns the number of checked entries, and every error that it found.
//
// Tessera's own checker hangs on the first wrong tile (v1.0.4).
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
	s, err := cfg.examine(key)
	found(err)
	size := s.head.Size
	if size == 0 && s.published != nil {
		size = s.published.Head.Size // the entries under the checkpoint can still be checked
	}
	directory{cfg.Dir}.prove(ctx, size, cfg.Progress, found)
	found(ctx.Err())
	if len(findings) > 0 {
		err = fmt.Errorf("checking log %s: %w", cfg.Name, errors.Join(findings...))
	}
	return size, err
}

// prove reads a tree of the given size: every entry, tile and issuer. found gets each error, or nil.
func (d directory) prove(ctx context.Context, size uint64, progress func(done, total uint64), found func(error)) {
	issuers := newIssuers(d.path)
	for first := uint64(0); first < size && ctx.Err() == nil; first += tileWidth {
		found(d.checkEntries(first, first+tileWidth, size, func(leaf *reader.Entry) error {
			_, err := leafEntry(leaf, issuers)
			return err
		}))
		if progress != nil {
			progress(min(first+tileWidth, size), size)
		}
	}
	for level := uint64(1); level <= maxTileLevel; level++ {
		// Each hash of a level is that of a full tile of the level below.
		for index := uint64(0); index < size>>(layout.TileHeight*level) && ctx.Err() == nil; index++ {
			t := tile{level: level - 1, index: index}
			below, err := d.tileNodes(t, size, nil)
			hashes, errHash := d.nodes([]compact.NodeID{{Level: uint(layout.TileHeight * level), Index: index}}, size, nil)
			if err == nil && errHash == nil && !bytes.Equal(below.node(1), hashes[0]) {
				err = fmt.Errorf("%w: hash %d of level %d is not that of the tile %s", errDamaged, index, level, t.path(0))
			}
			found(errors.Join(err, errHash))
		}
	}
}
