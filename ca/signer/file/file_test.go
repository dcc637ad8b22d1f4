// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// write writes content to a new file with mode 0600 and returns its path.
func write(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// vector returns the path of a copy of a key in testdata, with mode 0600, which git does not keep.
func vector(t testing.TB, name string) string {
	t.Helper()
	return write(t, name, read(t, name))
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestConformance(t *testing.T) {
	t.Parallel()
	path := vector(t, "pbes2-default.pem")
	open := func(path, password string) func(context.Context) (signer.Key, error) {
		passwordFile := write(t, "pass", []byte(password))
		return func(context.Context) (signer.Key, error) {
			key, _, err := file.Open(path, passwordFile)
			if err != nil {
				return nil, err
			}
			return signer.InMemory(key), nil
		}
	}
	right := open(path, "secret")
	key, err := right(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	signertest.Run(t, signertest.Place{
		Public: key.Public(), Open: right, InMemory: true, Secrets: []string{"secret", "guessed"},
		Mistakes: []signertest.Mistake{
			{Name: "wrong password", Open: open(path, "guessed"), Wants: []string{"pbes2-default.pem", "does not open the key"}},
			{Name: "no file", Open: open(path+".not-there", "secret"), Wants: []string{"pbes2-default.pem.not-there", "no such file"}},
		},
	})
}

func TestOpenKeysOfOpenSSL(t *testing.T) {
	t.Parallel()
	block, _ := pem.Decode(read(t, "ec.pem"))
	want, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	const plain, legacy = "it is not encrypted; run: openssl pkcs8", "older kind, in PEM headers"
	for name, test := range map[string]struct {
		warning string
		other   bool // another key than ec.pem
	}{
		"pbes2-default.pem":      {},
		"pbes2-aes128-sha1.pem":  {},
		"pbes2-scrypt.pem":       {},
		"pbes2-ed25519.pem":      {other: true},
		"pbes2-p521.pem":         {other: true},
		"ec-legacy-aes256.pem":   {warning: legacy},
		"ec-legacy-des3.pem":     {warning: legacy},
		"rsa-legacy-aes128.pem":  {warning: legacy, other: true},
		"ec.pem":                 {warning: plain},
		"ec-with-parameters.pem": {warning: plain, other: true},
		"pkcs8-plain.pem":        {warning: plain},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			passwordFile := ""
			if test.warning != plain {
				passwordFile = write(t, "pass", []byte("secret"))
			}
			signer, warnings, err := file.Open(vector(t, name), passwordFile)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, signer); err != nil { // it verifies the signature
				t.Errorf("the key is not complete: %v", err)
			}
			if !test.other && !want.PublicKey.Equal(signer.Public()) {
				t.Error("it is another key")
			}
			if got := errors.Join(warnings...); (got == nil) != (test.warning == "") || got != nil && !strings.Contains(got.Error(), test.warning) || len(warnings) > 1 {
				t.Errorf("warnings %v, want %q", got, test.warning)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	ec, certificate := read(t, "ec.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0}})
	block, _ := pem.Decode(ec)
	for name, test := range map[string]struct {
		content  []byte
		password string
		want     string
	}{
		"password with two newlines":    {read(t, "pbes2-default.pem"), "secret\n\n", "more than one line, and all of them count"},
		"password with a space":         {read(t, "ec-legacy-des3.pem"), "secret \n", "does not open the key"},
		"encrypted, no password":        {read(t, "pbes2-default.pem"), "", "name the file that holds its password as password_file"},
		"legacy, no password":           {read(t, "ec-legacy-des3.pem"), "", "name the file that holds its password as password_file"},
		"wrong password":                {read(t, "pbes2-default.pem"), "wrong", "does not open the key"},
		"wrong password, scrypt":        {read(t, "pbes2-scrypt.pem"), "wrong", "does not open the key"},
		"wrong password, legacy":        {read(t, "rsa-legacy-aes128.pem"), "wrong", "does not open the key"},
		"PBES1":                         {read(t, "pbes1.pem"), "secret", "openssl pkcs8 -topk8"},
		"PBKDF2 with SHA-512":           {read(t, "pbes2-aes192-sha512.pem"), "secret", "openssl pkcs8 -topk8"},
		"curve secp256k1":               {read(t, "pbes2-secp256k1.pem"), "secret", "does not open the key"},
		"X25519":                        {read(t, "pbes2-x25519.pem"), "secret", "it is a *ecdh.PrivateKey"},
		"RSA of 1024 bits":              {read(t, "rsa-1024.pem"), "", "RSA key of 1024 bits"},
		"OpenSSH":                       {read(t, "openssh.pem"), "", "ssh-keygen -p -m PKCS8"},
		"certificate and key":           {append(bytes.Clone(certificate), ec...), "", `2 PEM blocks ["CERTIFICATE" "EC PRIVATE KEY"]`},
		"two keys":                      {append(bytes.Clone(ec), ec...), "", "2 PEM blocks"},
		"DER":                           {block.Bytes, "", "-inform DER"},
		"nothing":                       {nil, "", "it holds 0 PEM blocks"},
		"not a key inside":              {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{0x30, 0}}), "", "parsing its PRIVATE KEY"},
		"not a key inside, encrypted":   {pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{0x30, 0}}), "x", "the file is damaged"},
		"a huge file":                   {bytes.Repeat(ec, 1000), "", "more than 65536 bytes"},
		"PBKDF2 of 20 M iterations":     {read(t, "pbes2-dear.pem"), "secret", "more work than the 10000000 steps"},
		"scrypt of too much work":       {patch(t, "pbes2-scrypt.pem", []byte{2, 2, 0x40, 0, 2, 1, 8, 2, 1, 1}, []byte{2, 2, 0x40, 0, 2, 1, 127, 2, 1, 127}), "secret", "more work than the 2097152 steps"},
		"scrypt, N not a power of two":  {patch(t, "pbes2-scrypt.pem", []byte{2, 2, 0x40, 0}, []byte{2, 2, 0x7f, 0xff}), "secret", "scrypt"},
		"initialization vector missing": {patch(t, "pbes2-default.pem", []byte{4, 16}, []byte{5, 16}), "secret", "openssl pkcs8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			passwordFile, path := "", "key"
			if test.password != "" {
				passwordFile = write(t, "pass", []byte(test.password))
			}
			if strings.Contains(test.want, "does not open the key") || strings.Contains(test.want, "one line") {
				path = "password_file"
			}
			_, _, err := file.Open(write(t, "key.pem", test.content), passwordFile)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one with %q", err, test.want)
			}
			if diff := cmp.Diff([]string{path}, keypath.All(err)[0].Path); diff != "" {
				t.Errorf("path of the error:\n%s", diff)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
}

// patch replaces bytes in a vector's DER with as many other bytes.
func patch(t testing.TB, name string, old, with []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(read(t, name))
	if bytes.Count(block.Bytes, old) != 1 || len(old) != len(with) {
		t.Fatalf("%x is not once in %s, or not as long as %x", old, name, with)
	}
	block.Bytes = bytes.Replace(block.Bytes, old, with, 1)
	return pem.EncodeToMemory(block)
}

func TestOpenReportsBothMissingFiles(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	_, _, err := file.Open(filepath.Join(folder, "key.pem"), filepath.Join(folder, "pass"))
	var paths [][]string
	for _, e := range keypath.All(err) {
		paths = append(paths, e.Path)
		if !strings.Contains(e.Error(), "no such file") {
			t.Error(e)
		}
	}
	if diff := cmp.Diff([][]string{{"key"}, {"password_file"}}, paths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
}

// Warnings of modes, and of a password that is not used, name their setting.
func TestOpenWarns(t *testing.T) {
	t.Parallel()
	key, pass := vector(t, "pkcs8-plain.pem"), write(t, "pass", []byte("secret\n"))
	if err := errors.Join(os.Chmod(key, 0o644), os.Chmod(pass, 0o660)); err != nil {
		t.Fatal(err)
	}
	_, warnings, err := file.Open(key, pass)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, warning := range warnings {
		paths = append(paths, keypath.All(warning)[0].Path[0])
	}
	if diff := cmp.Diff([]string{"key", "password_file", "key"}, paths); diff != "" {
		t.Errorf("settings (-want +got):\n%s%v", diff, warnings)
	}
}

// Opening a key file of any content returns soon and without a crash.
func FuzzOpen(f *testing.F) {
	entries, err := os.ReadDir("testdata")
	if err != nil {
		f.Fatal(err)
	}
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), ".pem") {
			block, _ := pem.Decode(read(f, entry.Name()))
			f.Add(block.Type, block.Headers["DEK-Info"], block.Bytes)
		}
	}
	folder, pass := f.TempDir(), write(f, "pass", []byte("secret"))
	f.Fuzz(func(t *testing.T, blockType, dekInfo string, der []byte) {
		block := &pem.Block{Type: blockType, Bytes: der}
		if dekInfo != "" {
			block.Headers = map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": dekInfo}
		}
		path := filepath.Join(folder, "key.pem")
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		signer, _, err := file.Open(path, pass)
		if (signer == nil) != (err != nil) {
			t.Errorf("signer %v with error %v", signer, err)
		}
	})
}
