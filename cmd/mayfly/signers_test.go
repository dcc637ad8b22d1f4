// SPDX-License-Identifier: Apache-2.0

//go:build pkcs11 && cgo && hashivault

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mayfly-ca/mayfly/test/vault"
)

// softHSM returns the path of SoftHSM2's module, from the places that ca/signer/pkcs11 searches
// too; "" if there is none.
func softHSM() string {
	for _, path := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// TestSignerCommands runs the transcripts in testdata/signers: a CA whose keys are in a token
// of SoftHSM2 and at a Vault, from mayfly ca init to a certificate.
func TestSignerCommands(t *testing.T) {
	installed := softHSM()
	if installed == "" {
		if os.Getenv("MAYFLY_SOFTHSM") == "required" {
			t.Fatal("MAYFLY_SOFTHSM=required, and SoftHSM2 is not installed; run: apt-get install softhsm2")
		}
		t.Skip("SoftHSM2 is not installed")
	}
	service := vault.New(t)
	for _, name := range []string{"vault-root", "vault-a", "vault-b"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		service.Add(name, key)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/signers",
		Setup: func(env *testscript.Env) error {
			conf, tokens := filepath.Join(env.WorkDir, "softhsm2.conf"), filepath.Join(env.WorkDir, "tokens")
			module := filepath.Join(env.WorkDir, "softhsm2.so") // a path that the files of a transcript can name
			env.Setenv("MODULE", module)
			env.Setenv("SOFTHSM2_CONF", conf)
			env.Setenv("VAULT_ADDR", service.URL())
			env.Setenv("VAULT_TOKEN", service.Token())
			if err := errors.Join(os.Mkdir(tokens, 0o700), os.Symlink(installed, module)); err != nil {
				return err
			}
			return os.WriteFile(conf, []byte(fmt.Sprintf("directories.tokendir = %s\nlog.level = ERROR\n", tokens)), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"world": world, "useset": useSet, "waitready": waitReady, "waitmetric": waitMetric,
		},
	})
}
