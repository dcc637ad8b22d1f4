// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

func TestInit(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	cfg := configIn(base)
	cfg.Dir, cfg.Guard, cfg.Key = filepath.Join(base, "a", "log"), filepath.Join(base, "b", "guard.json"), filepath.Join(base, "c", "log.key")
	created, err := Init(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(cfg.Key)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v: %v", info.Mode(), err)
	}
	l := open(t, cfg)
	if s := l.Status(); s.Err != nil || s.TreeSize != 0 || s.CheckpointTime.IsZero() || !bytes.Equal(s.LogID, created.LogID[:]) || !bytes.Equal(created.PublicKey, l.PublicKey()) {
		t.Errorf("created %+v, status: %+v", created, s)
	}
	if diff := cmp.Diff([]string{".state", "checkpoint", "issuer", "writer.lock"}, names(t, cfg.Dir)); diff != "" {
		t.Errorf("the directory holds (-want +got):\n%s", diff)
	}

	// The second time, each of the three paths alone must cause a refusal.
	for key, again := range map[string]Config{
		"dir": {Dir: cfg.Dir, Guard: cfg.Guard + "2", Key: cfg.Key + "2"}, "guard": {Dir: cfg.Dir + "2", Guard: cfg.Guard, Key: cfg.Key + "2"},
		"key": {Dir: cfg.Dir + "2", Guard: cfg.Guard + "2", Key: cfg.Key},
	} {
		again.Name, again.Origin = cfg.Name, cfg.Origin
		_, err := Init(t.Context(), again)
		if all := keypath.All(err); len(all) != 1 || all[0].Path[0] != key {
			t.Errorf("%s exists: got %v", key, err)
		}
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, names(t, base)); diff != "" {
		t.Errorf("a refused init left something (-want +got):\n%s", diff)
	}
	// A failed creation is undone: here a folder is where the guard should be.
	again := configIn(t.TempDir())
	again.Guard = again.Dir + ".init"
	if _, err := Init(t.Context(), again); err == nil || len(names(t, filepath.Dir(again.Dir))) > 0 {
		t.Errorf("a failed init (%v) left %v", err, names(t, filepath.Dir(again.Dir)))
	}
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// Package pem tests which files hold one block.
func TestParseKey(t *testing.T) {
	t.Parallel()
	_, good, err := generateKey()
	if err != nil {
		t.Fatal(err)
	}
	p384, errP384 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed25519Key, errEd := ed25519.GenerateKey(rand.Reader)
	p384DER, errDER := x509.MarshalPKCS8PrivateKey(p384)
	edDER, errEdDER := x509.MarshalPKCS8PrivateKey(ed25519Key)
	if err := errors.Join(errP384, errEd, errDER, errEdDER); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"good": good, "another block": bytes.ReplaceAll(good, []byte("PRIVATE"), []byte("EC PRIVATE")),
		"no PKCS#8": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}),
		"P-384":     pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p384DER}),
		"Ed25519":   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: edDER}),
	} {
		if _, err := parseKey(content); (err == nil) != (name == "good") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
