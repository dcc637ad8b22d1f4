// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

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
	return &reader.Source{Head: head, Disorder: maxDisorder, Read: read, Parallel: 1}, nil
}
