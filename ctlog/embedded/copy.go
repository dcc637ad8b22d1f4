// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/files"
)

// Copy copies the log's directory to the folder to, also while the log is in use, and proves the copy as
// Fsck does. The copy is the tree of one moment. Full tiles that the folder has from an earlier copy of the
// log are not copied again. The guard is not copied: without it, no mayfly signs for the copy. Copy returns
// the number of entries.
func Copy(ctx context.Context, cfg Config, to string) (uint64, error) {
	cfg, key, err := cfg.complete()
	if err != nil {
		return 0, err
	}
	if inside, err := filepath.Rel(resolve(cfg.Dir), resolve(to)); err == nil && filepath.IsLocal(inside) {
		return 0, fmt.Errorf("%s is inside the log's directory %s; name a folder elsewhere", to, cfg.Dir)
	}
	s, err := cfg.examine(key)
	var refusal *RefusedError
	if errors.As(err, &refusal) && refusal.Reason == ReasonGuard && s.published != nil {
		err = nil // nothing signs for a log without its guard, and what is there can be kept
	}
	if err != nil {
		return 0, fmt.Errorf("copying log %s: %w", cfg.Name, err)
	}
	copied, published := directory{to}, s.published.Head.Size
	if err = copied.receive(ctx, directory{cfg.Dir}, s.head, s.published); err == nil {
		_, err = copied.verify(s.head, s.published.Head)
	}
	if err == nil && published > 0 { // the reads over HTTP are of this tree, and of its partial tiles
		if _, err = copied.root(published); err == nil {
			err = copied.checkEntries((published-1)/tileWidth*tileWidth, published, published, nil)
		}
	}
	if err == nil {
		copied.prove(ctx, s.head.Size, cfg.Progress, func(found error) {
			if err == nil {
				err = found
			}
		})
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return 0, fmt.Errorf("copying log %s to %s: %w", cfg.Name, to, err)
	}
	return s.head.Size, nil
}

// receive fills d with a tree of the directory from. An earlier copy stays valid until the tree state is written.
func (d directory) receive(ctx context.Context, from directory, head reader.Head, published *reader.Checkpoint) error {
	for _, size := range []uint64{published.Head.Size, head.Size} { // each has partial tiles of its own
		for level := uint64(0); size>>(layout.TileHeight*level) > 0; level++ {
			for index := uint64(0); index*tileWidth < size>>(layout.TileHeight*level); index++ {
				err := errors.Join(ctx.Err(), d.receiveTile(from, tile{level: level, index: index}, size))
				if err == nil && level == 0 {
					err = d.receiveTile(from, tile{data: true, index: index}, size)
				}
				if err != nil {
					return err
				}
			}
		}
	}
	names, err := os.ReadDir(filepath.Join(from.path, issuerDir))
	err = errors.Join(err, os.MkdirAll(filepath.Join(d.path, issuerDir), 0o755)) // a log without entries has it too
	for _, name := range names {
		if err == nil && filepath.Ext(name.Name()) == "" {
			var content []byte
			content, err = files.Read(filepath.Join(from.path, issuerDir, name.Name()), maxCertificate)
			err = errors.Join(err, d.write(filepath.Join(issuerDir, name.Name()), content))
		}
	}
	if err == nil {
		root := base64.StdEncoding.EncodeToString(head.Root[:])
		err = d.write(treeStateFile, fmt.Appendf(nil, `{"size":%d,"root":"%s"}`, head.Size, root))
	}
	if err == nil {
		err = d.write(checkpointFile, published.Raw)
	}
	return err
}

// receiveTile copies a tile, unless it is there and full.
func (d directory) receiveTile(from directory, t tile, size uint64) error {
	if _, err := os.Stat(filepath.Join(d.path, t.path(0))); err == nil {
		return nil
	}
	file, err := from.open(t, size)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	content, err := io.ReadAll(file)
	name, errName := filepath.Rel(from.path, file.Name())
	if err = errors.Join(err, errName); err != nil {
		return err
	}
	return d.write(name, content)
}

func (d directory) write(name string, content []byte) error {
	path := filepath.Join(d.path, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return files.WriteDurably(path, content, 0o644)
}
