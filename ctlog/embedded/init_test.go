// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

func TestInit(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	cfg := Config{
		Name: "2026", Origin: "log.example/2026",
		Dir: filepath.Join(base, "a", "log"), Guard: filepath.Join(base, "b", "guard.json"), Key: filepath.Join(base, "c", "log.key"),
	}
	created, err := Init(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(cfg.Key)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v: %v", info.Mode(), err)
	}
	key, err := loadKey(cfg.Key)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(created.PublicKey)
	if sha256.Sum256(block.Bytes) != created.LogID || key.LogID() != created.LogID || created.Origin != cfg.Origin {
		t.Errorf("created %+v", created)
	}
	l := open(t, cfg)
	if s := l.Status(); s.Err != nil || s.TreeSize != 0 || s.CheckpointTime.IsZero() {
		t.Errorf("status: %+v", s)
	}
	if diff := cmp.Diff([]string{".state", "checkpoint", "issuer", "writer.lock"}, names(t, cfg.Dir)); diff != "" {
		t.Errorf("the directory holds (-want +got):\n%s", diff)
	}

	// The second time, each of the three paths alone must cause a refusal.
	for _, test := range []struct {
		key   string
		renew func(*Config)
	}{
		{"dir", func(c *Config) { c.Guard, c.Key = c.Guard+"2", c.Key+"2" }},
		{"guard", func(c *Config) { c.Dir, c.Key = c.Dir+"2", c.Key+"2" }},
		{"key", func(c *Config) { c.Guard, c.Dir = c.Guard+"2", c.Dir+"2" }},
	} {
		again := cfg
		test.renew(&again)
		_, err := Init(t.Context(), again)
		var at *keypath.Error
		if !errors.As(err, &at) || at.Path[0] != test.key || !strings.Contains(err.Error(), "exists already") {
			t.Errorf("%s exists: got %v", test.key, err)
		}
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, names(t, base)); diff != "" {
		t.Errorf("a refused init left something (-want +got):\n%s", diff)
	}
}

func TestInitUndoesWhatItMade(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	cfg := Config{
		Name: "2026", Origin: "log.example/2026",
		Dir: filepath.Join(base, "log"), Guard: filepath.Join(base, "guard.json"), Key: filepath.Join(base, strings.Repeat("long", 100)),
	}
	if _, err := Init(t.Context(), cfg); err == nil {
		t.Fatal("a file name of 400 characters was accepted")
	}
	if left := names(t, base); len(left) > 0 {
		t.Errorf("a failed init left %v", left)
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

func TestParseKey(t *testing.T) {
	t.Parallel()
	_, good, err := generateKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseKey(good); err != nil {
		t.Errorf("our own key: %v", err)
	}
	if _, err := parseKey(append([]byte("\ufeff"), good...)); err != nil {
		t.Errorf("behind a byte order mark: %v", err)
	}
	encode := func(key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	p384, errP384 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, edKey, errEd := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(errP384, errEd); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"empty": "", "no PEM": "hello", "another block": strings.ReplaceAll(string(good), "PRIVATE", "EC PRIVATE"),
		"hidden": "key: " + string(good) + string(good), "two blocks": string(good) + string(good),
		"no PKCS#8": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})),
		"P-384":     encode(p384), "Ed25519": encode(edKey),
	} {
		if _, err := parseKey([]byte(content)); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
