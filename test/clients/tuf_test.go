// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"crypto"
	"crypto/ed25519"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// serveTUF creates a TUF repository with consistent snapshots and the targets trusted_root.json and
// signing_config.v0.2.json, and serves it. One key signs all four roles: the suite tests that
// clients find the documents, not the ceremony.
func (w *world) serveTUF(t *testing.T, dir string) {
	t.Helper()
	repo := filepath.Join(dir, "tuf")
	if err := os.MkdirAll(filepath.Join(repo, "targets"), 0o700); err != nil {
		t.Fatal(err)
	}
	expires := time.Now().Add(24 * time.Hour).UTC()
	targets := metadata.Targets(expires)
	for _, file := range []string{w.trustedRoot, w.signingConfig} {
		info, err := addTarget(repo, file)
		if err != nil {
			t.Fatal(err)
		}
		targets.Signed.Targets[filepath.Base(file)] = info
	}
	if err := writeMetadata(repo, expires, targets); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(repo)))
	t.Cleanup(server.Close)
	w.tuf = server.URL
	w.tufRoot = filepath.Join(repo, "1.root.json")
}

// addTarget copies a file into the repository under its name with the hash.
func addTarget(repo, file string) (*metadata.TargetFiles, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	info, err := metadata.TargetFile().FromBytes(filepath.Base(file), content, "sha256")
	if err != nil {
		return nil, err
	}
	name := hex.EncodeToString(info.Hashes["sha256"]) + "." + filepath.Base(file)
	return info, os.WriteFile(filepath.Join(repo, "targets", name), content, 0o600)
}

// writeMetadata signs and writes version 1 of root, targets, snapshot and timestamp.
func writeMetadata(repo string, expires time.Time, targets *metadata.Metadata[metadata.TargetsType]) error {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	key, err := metadata.KeyFromPublicKey(private.Public())
	if err != nil {
		return err
	}
	signer, err := signature.LoadSigner(private, crypto.Hash(0))
	if err != nil {
		return err
	}
	root := metadata.Root(expires)
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		if err := root.Signed.AddKey(key, role); err != nil {
			return err
		}
	}
	if err := signAndWrite(root, signer, filepath.Join(repo, "1.root.json")); err != nil {
		return err
	}
	if err := signAndWrite(targets, signer, filepath.Join(repo, "1.targets.json")); err != nil {
		return err
	}
	if err := signAndWrite(metadata.Snapshot(expires), signer, filepath.Join(repo, "1.snapshot.json")); err != nil {
		return err
	}
	return signAndWrite(metadata.Timestamp(expires), signer, filepath.Join(repo, "timestamp.json"))
}

func signAndWrite[T metadata.Roles](role *metadata.Metadata[T], signer signature.Signer, path string) error {
	if _, err := role.Sign(signer); err != nil {
		return err
	}
	return role.ToFile(path, false)
}
