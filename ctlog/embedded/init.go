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

	"github.com/mayfly-ca/mayfly/ctlog/reader"
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
	id := key.LogID()
	guard := (&guardFile{Origin: cfg.Origin, LogID: id[:]}).at(reader.EmptyTree(), cfg.Now())
	guardJSON, err := guard.marshal()
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
	building := cfg
	building.Dir += ".init"
	for _, step := range []struct {
		path   string
		create func() error
	}{
		{building.Dir, func() error { return os.Mkdir(building.Dir, 0o755) }},
		{building.Dir, func() error { return building.fill(ctx, key, guard) }},
		{cfg.Key, func() error { return files.Create(cfg.Key, keyPEM, 0o600) }},
		{cfg.Key, func() error { return files.SyncFolder(filepath.Dir(cfg.Key)) }},
		{cfg.Guard, func() error { return files.Create(cfg.Guard, guardJSON, 0o644) }},
		{cfg.Guard, func() error { return files.SyncFolder(filepath.Dir(cfg.Guard)) }},
		{cfg.Dir, func() error { return os.Rename(building.Dir, cfg.Dir) }},
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
	if err := CheckSettings(cfg); err != nil {
		return err
	}
	var errs []error
	paths := []struct{ key, path string }{{"dir", cfg.Dir}, {"dir", cfg.Dir + ".init"}, {"guard", cfg.Guard}, {"key", cfg.Key}}
	for _, it := range paths {
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
	for _, it := range paths {
		parent := filepath.Dir(it.path)
		err := explain(parent, os.MkdirAll(parent, 0o755))
		if err == nil && it.key != "key" {
			_, err = statFilesystem(parent)
		}
		if err != nil {
			errs = append(errs, keypath.Errorf([]string{it.key}, "%w", err))
		}
	}
	return errors.Join(errs...)
}

// fill fills a new directory. Tessera creates its own files, including the signed checkpoint of the
// empty tree, which is all that the guard admits.
func (cfg Config) fill(ctx context.Context, key *logKey, guard *guardFile) error {
	if err := os.Mkdir(filepath.Join(cfg.Dir, issuerDir), 0o755); err != nil {
		return err
	}
	cfg.Registerer = nil
	l := newLog(cfg, key)
	l.guard.newest.Store(guard)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The appender publishes the checkpoint before NewAppender returns; its other work stops
	// with ctx. The long interval keeps that work from starting.
	_, _, err := l.newAppender(ctx, tessera.NewAppendOptions().
		WithCheckpointInterval(time.Hour).WithCheckpointRepublishInterval(0).WithGarbageCollectionInterval(0))
	if err == nil {
		_, err = l.directory.checkpoint(l.verifier(), nil)
	}
	return errors.Join(err, files.SyncFolder(cfg.Dir))
}
