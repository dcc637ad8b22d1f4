// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	signerfile "github.com/mayfly-ca/mayfly/ca/signer/file"
)

func initialize(t testing.TB, cfg InitConfig) *Result {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "ca")
	}
	cfg.Now = now
	result, err := Init(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// tree lists a folder: path, mode, and a slash after folders.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		slash := map[bool]string{true: "/"}[entry.IsDir()]
		all = append(all, fmt.Sprintf("%04o %s%s", info.Mode().Perm(), relative, slash))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func certificates(t testing.TB, path string) []*x509.Certificate {
	t.Helper()
	var all []*x509.Certificate
	for rest := readFile(t, path); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			t.Fatalf("%s holds something that is no certificate", path)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// opens checks that the key belongs to the certificate, and opens without a warning.
func opens(t testing.TB, keyFile, passwordFile string, certificate *x509.Certificate) {
	t.Helper()
	signer, warnings, err := signerfile.Open(keyFile, passwordFile)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("opening %s: %v, warnings %v", keyFile, err, warnings)
	}
	if !signer.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(certificate.PublicKey) {
		t.Errorf("%s is not the key of %s", keyFile, certificate.Subject)
	}
}

func TestInitMakesAWholeCA(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"ecdsa-p256", ""} {
		t.Run("algorithm "+algorithm, func(t *testing.T) {
			t.Parallel()
			result := initialize(t, InitConfig{Algorithm: algorithm, Organization: "Example Corp"})
			dir := filepath.Dir(result.SetFile)
			want := []string{
				"0700 ./", "0700 2026-a/", "0644 2026-a/chain.pem", "0600 2026-a/key.pem", "0600 2026-a/pass", "0644 ca.yaml",
				"0700 root/", "0600 root/key.pem", "0600 root/pass", "0644 root/root.pem",
			}
			if diff := cmp.Diff(want, tree(t, dir)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if got := result.Root.Subject.String() + " / " + result.Intermediate.Subject.String(); got != "CN=Example Corp root,O=Example Corp / CN=Example Corp intermediate 2026-a,O=Example Corp" {
				t.Errorf("names %q", got)
			}
			chain := certificates(t, result.ChainFile)
			if len(chain) != 2 || !chain[0].Equal(result.Intermediate) || !chain[1].Equal(result.Root) {
				t.Error("the chain is not intermediate and root")
			}
			if root := certificates(t, filepath.Join(result.RootDir, "root.pem")); len(root) != 1 || !root[0].Equal(result.Root) {
				t.Error("root.pem is not the root")
			}
			verify(t, chain[1], chain[0], now())
			opens(t, result.KeyFile, result.PasswordFile, result.Intermediate)
			opens(t, filepath.Join(result.RootDir, "key.pem"), filepath.Join(result.RootDir, "pass"), result.Root)
			if bytes.Equal(readFile(t, result.PasswordFile), readFile(t, filepath.Join(result.RootDir, "pass"))) {
				t.Error("the online password opens the root as well")
			}
		})
	}
}

func TestInitWithPasswords(t *testing.T) {
	t.Parallel()
	password, rootPassword := []byte("correct horse "), []byte("battery staple")
	result := initialize(t, InitConfig{Algorithm: "ecdsa-p256", Password: password, RootPassword: rootPassword})
	opens(t, result.KeyFile, result.PasswordFile, result.Intermediate)
	rootKey := filepath.Join(result.RootDir, "key.pem")
	rootPass := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(rootPass, rootPassword, 0o600); err != nil {
		t.Fatal(err)
	}
	opens(t, rootKey, rootPass, result.Root)
	if _, err := os.Stat(filepath.Join(result.RootDir, "pass")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the root's password was written: %v", err)
	}
	// Guessing a password that a person chose must be expensive: 600,000 iterations.
	for _, path := range []string{result.KeyFile, rootKey} {
		block, _ := pem.Decode(readFile(t, path))
		if !bytes.Contains(block.Bytes, []byte{2, 3, 0x09, 0x27, 0xc0}) {
			t.Errorf("%s is not encrypted with 600000 iterations", path)
		}
	}
}

func TestInitIntoAnEmptyFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil { // a fresh volume
		t.Fatal(err)
	}
	result := initialize(t, InitConfig{Dir: dir + "/", Algorithm: "ecdsa-p256"})
	if want := filepath.Join(dir, "ca.yaml"); result.SetFile != want {
		t.Errorf("the set is %s, want %s", result.SetFile, want)
	}
	// A second run would overwrite keys.
	_, err := Init(InitConfig{Dir: dir, Algorithm: "ecdsa-p256"})
	if err == nil || !strings.Contains(err.Error(), "nothing is ever overwritten") {
		t.Errorf("the second time: %v", err)
	}
}

func TestInitRefuses(t *testing.T) {
	t.Parallel()
	place := t.TempDir()
	occupied, interrupted, regular := filepath.Join(place, "occupied"), filepath.Join(place, "interrupted"), filepath.Join(place, "file")
	for path, isFolder := range map[string]bool{occupied: true, interrupted: true, filepath.Join(occupied, ".hidden"): false, filepath.Join(interrupted, ".unfinished-1"): true, regular: false} {
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if isFolder {
			err = errors.Join(err, os.MkdirAll(path, 0o700))
		} else {
			err = errors.Join(err, os.WriteFile(path, nil, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	before := tree(t, place)
	fresh := filepath.Join(place, "fresh")
	for name, test := range map[string]struct {
		cfg  InitConfig
		want []string
	}{
		"no folder":               {InitConfig{}, []string{"no folder is named"}},
		"folder that is occupied": {InitConfig{Dir: occupied}, []string{`is not empty, it holds ".hidden"`}},
		"folder of a broken init": {InitConfig{Dir: interrupted}, []string{"left by a mayfly ca init that was interrupted"}},
		"file":                    {InitConfig{Dir: regular}, []string{"is a file"}},
		"folder below a file":     {InitConfig{Dir: filepath.Join(regular, "ca")}, []string{"not a directory"}},
		"everything at once": {
			InitConfig{Dir: fresh, Algorithm: "ed25519", CommonName: strings.Repeat("x", 65), Organization: "\x00", Password: []byte("short"), RootPassword: []byte("two\nlines")},
			[]string{"should be one of ecdsa-p384", "has 70 characters; 64 at most", "cannot be printed", "the password has 5 characters; it should have 8", "the root password holds a line ending"},
		},
		"endless password": {InitConfig{Dir: fresh, Password: make([]byte, 1025)}, []string{"has 1025 characters"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Init(test.cfg)
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want one with %q", err, want)
				}
			}
			if err != nil && strings.Contains(err.Error(), "short") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
	if diff := cmp.Diff(before, tree(t, place)); diff != "" {
		t.Errorf("a refusal changed files:\n%s", diff)
	}
}

// If two runs start at the same time in one folder, one succeeds, and its CA is complete.
func TestInitTwiceAtOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "deep", "ca")
	results := make(chan error)
	const times = 4
	for range times {
		go func() {
			_, err := Init(InitConfig{Dir: dir, Algorithm: "ecdsa-p256", Now: now})
			results <- err
		}()
	}
	won := 0
	for range times {
		if err := <-results; err == nil {
			won++
		}
	}
	if won != 1 {
		t.Fatalf("%d succeeded, want 1", won)
	}
	chain := certificates(t, filepath.Join(dir, "2026-a", "chain.pem"))
	opens(t, filepath.Join(dir, "2026-a", "key.pem"), filepath.Join(dir, "2026-a", "pass"), chain[0])
	opens(t, filepath.Join(dir, "root", "key.pem"), filepath.Join(dir, "root", "pass"), chain[1])
	if _, err := os.Stat(filepath.Join(dir, "ca.yaml")); err != nil {
		t.Error(err)
	}
}
