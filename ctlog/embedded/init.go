// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"

	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Created is a new log.
type Created struct {
	// PublicKey is PEM: for ctlog.LogConfig, for trust roots, and for publication.
	PublicKey []byte
	LogID     [32]byte
	Origin    string
}

// Init creates a log: its key (PKCS#8, mode 0600), its directory with the checkpoint of an
// empty tree, and its guard. It uses only the names and paths of cfg. It refuses existing paths, and
// removes what it created if it fails. Errors for settings have key paths such as ["dir"].
func Init(ctx context.Context, cfg Config) (*Created, error) {
	cfg = cfg.withDefaults()
	if err := cfg.checkNew(); err != nil {
		return nil, err
	}
	key, keyPEM, err := generateKey()
	if err != nil {
		return nil, err
	}
	var created []string
	undo := func(err error) error {
		for _, path := range created {
			err = errors.Join(err, os.RemoveAll(path))
		}
		return fmt.Errorf("creating log %s: %w", cfg.Name, err)
	}
	// Init builds the directory under another name, and renames it last: after a crash in
	// between, Open finds no log, and Init finds an existing path.
	building := cfg.Dir + ".init"
	empty, id := emptyTree(), key.LogID()
	guard, err := guardFile{Origin: cfg.Origin, LogID: id[:], RootHash: empty.root[:], Updated: cfg.Now().UTC().Truncate(time.Millisecond)}.marshal()
	if err != nil {
		return nil, err
	}
	for _, step := range []struct {
		path   string
		create func() error
	}{
		{building, func() error { return os.Mkdir(building, 0o755) }},
		{building, func() error { return cfg.fill(ctx, building, key) }},
		{cfg.Key, func() error { return createFile(cfg.Key, keyPEM, 0o600) }},
		{cfg.Guard, func() error { return createFile(cfg.Guard, guard, 0o644) }},
		{cfg.Dir, func() error { return os.Rename(building, cfg.Dir) }},
		{cfg.Dir, func() error { return files.SyncFolder(filepath.Dir(cfg.Dir)) }},
	} {
		if err := step.create(); err != nil {
			return nil, undo(explain(step.path, err))
		}
		created = append(created, step.path)
	}
	return &Created{PublicKey: key.PEM(), LogID: id, Origin: cfg.Origin}, nil
}

// checkNew checks the settings of a new log, and creates the parent directories.
func (cfg Config) checkNew() error {
	errs := append(checkNames(cfg.Name, cfg.Origin), checkPaths(cfg.Dir, cfg.Guard)...)
	if cfg.Key == "" {
		errs = append(errs, keypath.Errorf([]string{"key"}, "the path of the log's key is missing"))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, it := range []struct{ key, path string }{{"dir", cfg.Dir}, {"dir", cfg.Dir + ".init"}, {"guard", cfg.Guard}, {"key", cfg.Key}} {
		_, err := os.Lstat(it.path)
		switch {
		case err == nil:
			errs = append(errs, keypath.Errorf([]string{it.key}, "%s exists already; a log is created once, and never over another: choose a new name, or move it away if it never was a log", it.path))
		case !errors.Is(err, os.ErrNotExist):
			errs = append(errs, keypath.Errorf([]string{it.key}, "%w", err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, it := range []struct{ key, path string }{{"dir", cfg.Dir}, {"guard", cfg.Guard}, {"key", cfg.Key}} {
		parent := filepath.Dir(it.path)
		err := explain(parent, os.MkdirAll(parent, 0o755))
		if err == nil && it.key != "key" {
			var f filesystem
			if f, err = statFilesystem(parent); err == nil {
				err = f.check(parent)
			}
		}
		if err != nil {
			errs = append(errs, keypath.Errorf([]string{it.key}, "%w", err))
		}
	}
	return errors.Join(errs...)
}

// fill fills a new directory. Tessera creates its own files, including the signed checkpoint of the
// empty tree.
func (cfg Config) fill(ctx context.Context, dir string, key *logKey) error {
	if err := os.Mkdir(filepath.Join(dir, issuerDir), 0o755); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		return err
	}
	verifier := noteVerifier{cfg.Origin, key.PublicKey}
	signer := noteSigner{
		noteVerifier: verifier, key: key, timestamp: func() uint64 { return milliseconds(cfg.Now()) },
		admit: func(h treeHead) error {
			if h != emptyTree() {
				return errors.New("a new log is empty")
			}
			return nil
		},
	}
	// The appender publishes the checkpoint before NewAppender returns; its other work stops
	// with ctx. The long interval keeps that work from starting.
	_, _, _, err = tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCTLayout().WithCheckpointSigner(signer).
		WithCheckpointInterval(time.Hour).WithCheckpointRepublishInterval(0).WithGarbageCollectionInterval(0))
	if err == nil {
		_, err = directory{dir}.checkpoint(verifier, nil)
	}
	if err == nil {
		err = files.SyncFolder(dir)
	}
	return err
}

// createFile creates a new file durably, or leaves none.
func createFile(path string, content []byte, mode os.FileMode) error {
	if err := files.Create(path, content, mode); err != nil {
		return err
	}
	if err := files.SyncFolder(filepath.Dir(path)); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
