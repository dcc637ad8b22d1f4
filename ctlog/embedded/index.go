// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/transparency-dev/merkle/compact"

	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/files"
)

const (
	// indexDir is the folder of the search index, which only searches read and write.
	indexDir = "search"
	// indexReserve is the free space that a search leaves to the log.
	indexReserve = 8 * minFree
)

// index returns the search index for the tree of the given size.
func (d directory) index(size uint64) *reader.Index {
	name := func(segment uint64) string { return filepath.Join(indexDir, strconv.FormatUint(segment, 10)) }
	return &reader.Index{
		Read: func(segment uint64) ([]byte, error) {
			return files.Read(filepath.Join(d.path, name(segment)), reader.MaxIndexFile)
		},
		Write: func(segment uint64, content []byte) error { return d.writeIndex(name(segment), content) },
		Node: func(segment uint64) ([]byte, error) {
			hashes, err := d.nodes([]compact.NodeID{{Level: reader.SegmentLevel, Index: segment}}, size, nil)
			if err != nil {
				return nil, err
			}
			return hashes[0], nil
		},
	}
}

// writeIndex writes a file of the search index without fsync: a reader verifies its checksum. A search by root
// follows no symbolic link out of the log's directory.
func (d directory) writeIndex(name string, content []byte) error {
	free, err := statFilesystem(d.path)
	if err == nil && free < indexReserve {
		err = fmt.Errorf("has %d MiB of free disk space left, and a search leaves %d MiB to the log", free>>20, indexReserve>>20)
	}
	var root *os.Root
	if err == nil {
		root, err = os.OpenRoot(d.path)
	}
	if err == nil {
		err = root.MkdirAll(indexDir, 0o755)
		if err == nil {
			err = root.WriteFile(name, content, 0o644)
		}
		err = errors.Join(err, root.Close())
	}
	if err != nil {
		return explain(d.path, fmt.Errorf("writing the search index in %s: %w", filepath.Join(d.path, indexDir), err))
	}
	return nil
}
