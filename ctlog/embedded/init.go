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

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// InitConfig describes a new log. None of its paths may exist yet.
type InitConfig struct {
	// Name, Dir, Guard, Key and Origin are as in Config. Key is the path of the new key file.
	Name, Dir, Guard, Key, Origin string
	// Now is the clock; nil for time.Now.
	Now func() time.Time
}

// Created is a new log.
type Created struct {
	// PublicKey is PEM: for ctlog.LogConfig, for trust roots, and for publication.
	PublicKey []byte
	LogID     [32]byte
	Origin    string
}

// Init creates a log: its key (PKCS#8, mode 0600), its directory with the checkpoint of an
// empty tree, and its guard. It refuses existing paths, and removes what it created if it
// fails. Errors for settings have key paths such as ["dir"].
func Init(ctx context.Context, cfg InitConfig) (*Created, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	key, keyPEM, err := generateKey()
	if err != nil {
		return nil, err
	}
	var made []string
	undo := func(err error) error {
		for _, path := range made {
			err = errors.Join(err, os.RemoveAll(path))
		}
		return fmt.Errorf("making log %s: %w", cfg.Name, err)
	}
	// Init builds the directory under another name, and renames it last: after a crash in
	// between, Open finds no log, and Init finds an existing path.
	building := cfg.Dir + ".init"
	if err := os.Mkdir(building, 0o755); err != nil {
		return nil, undo(err)
	}
	made = append(made, building)
	if err := cfg.fill(ctx, building, key); err != nil {
		return nil, undo(err)
	}
	if err := createFile(cfg.Key, keyPEM, 0o600); err != nil {
		return nil, undo(err)
	}
	made = append(made, cfg.Key)
	empty := emptyTree()
	guard, err := guardFile{Origin: cfg.Origin, LogID: key.id[:], RootHash: empty.root[:], Updated: cfg.Now().UTC().Truncate(time.Millisecond)}.marshal()
	if err != nil {
		return nil, undo(err)
	}
	if err := createFile(cfg.Guard, guard, 0o644); err != nil {
		return nil, undo(err)
	}
	made = append(made, cfg.Guard)
	if err := os.Rename(building, cfg.Dir); err != nil {
		return nil, undo(err)
	}
	if err := syncDir(filepath.Dir(cfg.Dir)); err != nil {
		return nil, fmt.Errorf("making log %s: %w", cfg.Name, err)
	}
	return &Created{PublicKey: key.publicPEM(), LogID: key.id, Origin: cfg.Origin}, nil
}

// check checks the settings, and creates the parent directories.
func (cfg InitConfig) check() error {
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
			errs = append(errs, keypath.Errorf([]string{it.key}, "%s exists already; a log is made once, and never over another: choose a new name, or move it away if it never was a log", it.path))
		case !errors.Is(err, os.ErrNotExist):
			errs = append(errs, keypath.Errorf([]string{it.key}, "%w", err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, it := range []struct{ key, path string }{{"dir", cfg.Dir}, {"guard", cfg.Guard}, {"key", cfg.Key}} {
		if err := checkParent(filepath.Dir(it.path), it.key != "key"); err != nil {
			errs = append(errs, keypath.Errorf([]string{it.key}, "%w", err))
		}
	}
	return errors.Join(errs...)
}

func checkParent(dir string, written bool) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return explain(dir, err)
	}
	if !written {
		return nil
	}
	f, err := statFilesystem(dir)
	if err != nil {
		return err
	}
	return checkFilesystem(dir, f)
}

// fill lets Tessera create its own files, including the signed checkpoint of the empty tree.
func (cfg InitConfig) fill(ctx context.Context, dir string, key *logKey) error {
	if err := os.Mkdir(filepath.Join(dir, issuerDir), 0o755); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	driver, err := posix.New(ctx, posix.Config{Path: dir})
	if err != nil {
		return err
	}
	signer := noteSigner{
		noteVerifier: noteVerifier{origin: cfg.Origin, key: key},
		admit: func(h treeHead) error {
			if h != emptyTree() {
				return errors.New("a new log is empty")
			}
			return nil
		},
		timestamp: func() uint64 { return uint64(max(cfg.Now().UnixMilli(), 0)) },
	}
	// The appender publishes the checkpoint before NewAppender returns; its other work stops
	// with ctx. The long interval keeps that work from starting.
	_, _, _, err = tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCTLayout().WithCheckpointSigner(signer).
		WithCheckpointInterval(time.Hour).WithCheckpointRepublishInterval(0).WithGarbageCollectionInterval(0))
	if err != nil {
		return explain(dir, err)
	}
	if _, err := readCheckpoint(directory{dir}, cfg.Origin, key); err != nil {
		return err
	}
	return syncDir(dir)
}

// createFile creates a new file durably, or leaves none.
func createFile(path string, content []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return explain(path, err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return explain(path, errors.Join(err, os.Remove(path)))
	}
	return nil
}
