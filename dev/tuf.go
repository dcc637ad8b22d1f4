// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// The lifetimes of TUF metadata. The root is created once; the rest again at each start.
const (
	tufRootLifetime = 10 * 365 * 24 * time.Hour
	tufLifetime     = 365 * 24 * time.Hour
)

// writeTUF creates, or updates, a TUF repository in dir with the given files as targets. One key
// signs all four roles, and snapshots are consistent. An existing repository keeps its root, so
// that its clients still trust it, and gets newer versions of the rest.
func writeTUF(dir string, key crypto.Signer, targets map[string][]byte, now time.Time) error {
	signer, err := signature.LoadSigner(key, crypto.SHA256)
	if err != nil {
		return fmt.Errorf("loading the TUF key: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "targets"), 0o755); err != nil {
		return err
	}
	version := int64(1)
	last, err := metadata.Timestamp().FromFile(filepath.Join(dir, "timestamp.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = writeTUFRoot(dir, key, signer, now)
	case err == nil:
		version = last.Signed.Version + 1
	}
	if err != nil {
		return fmt.Errorf("opening the TUF repository in %s: %w", dir, err)
	}
	expires := now.Add(tufLifetime).UTC()
	list := metadata.Targets(expires)
	for name, content := range targets {
		info, err := metadata.TargetFile().FromBytes(name, content, "sha256")
		if err != nil {
			return fmt.Errorf("describing %s: %w", name, err)
		}
		list.Signed.Targets[name] = info
		file := filepath.Join(dir, "targets", hex.EncodeToString(info.Hashes["sha256"])+"."+name)
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return err
		}
	}
	snapshot, timestamp := metadata.Snapshot(expires), metadata.Timestamp(expires)
	list.Signed.Version, snapshot.Signed.Version, timestamp.Signed.Version = version, version, version
	snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(version)
	timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(version)
	// The timestamp last: until then clients see the old repository.
	return errors.Join(
		signTUF(list, signer, filepath.Join(dir, fmt.Sprintf("%d.targets.json", version))),
		signTUF(snapshot, signer, filepath.Join(dir, fmt.Sprintf("%d.snapshot.json", version))),
		signTUF(timestamp, signer, filepath.Join(dir, "timestamp.json")))
}

func writeTUFRoot(dir string, key crypto.Signer, signer signature.Signer, now time.Time) error {
	public, err := metadata.KeyFromPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("describing the TUF key: %w", err)
	}
	root := metadata.Root(now.Add(tufRootLifetime).UTC())
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		if err := root.Signed.AddKey(public, role); err != nil {
			return fmt.Errorf("adding the TUF key: %w", err)
		}
	}
	// Clients request N.root.json; people pass root.json to `cosign initialize --root`.
	return errors.Join(
		signTUF(root, signer, filepath.Join(dir, "1.root.json")),
		root.ToFile(filepath.Join(dir, "root.json"), false))
}

func signTUF[T metadata.Roles](role *metadata.Metadata[T], signer signature.Signer, file string) error {
	if _, err := role.Sign(signer); err != nil {
		return fmt.Errorf("signing %s: %w", filepath.Base(file), err)
	}
	return role.ToFile(file, false)
}
