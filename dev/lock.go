// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/internal/files"
)

// lockDir keeps other processes from using a world's directory until the file is closed.
func lockDir(dir string) (*os.File, error) {
	file, err := files.Lock(filepath.Join(dir, "lock"), 0o600)
	if errors.Is(err, files.ErrLocked) {
		return nil, fmt.Errorf("another mayfly dev uses %s: stop it, or name another directory with --dir", dir)
	}
	return file, err
}
