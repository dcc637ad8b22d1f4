// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// Signer is the place of a private key. Exactly one of the keys is present; signers.md has a block
// for each.
type Signer struct {
	// File is `file`: the key is in a file, and in the memory of the signing process.
	File *SignerFile `key:"file"`
	// PKCS11 is `pkcs11`: the key is in a hardware module.
	PKCS11 *signer.PKCS11 `key:"pkcs11"`
	// KMS is `kms`: the key is in a key-management service.
	KMS *signer.KMS `key:"kms"`
}

// SignerFile is `signer.file`.
type SignerFile struct {
	// Key is `key`, the PEM file of the private key.
	Key string `key:"key" kind:"path" required:"it names the PEM file of the private key"`
	// PasswordFile is `password_file`: the password of an encrypted key, without the
	// newline at its end.
	PasswordFile string `key:"password_file" kind:"path"`
}

// IsZero reports whether no place is set.
func (s Signer) IsZero() bool { return s == Signer{} }

// Kind returns the scheme of a KMS URI, or the name of the field that is present; "" for none.
func (s Signer) Kind() string {
	switch {
	case s.File != nil:
		return "file"
	case s.PKCS11 != nil:
		return "pkcs11"
	case s.KMS != nil:
		scheme, _, _ := strings.Cut(s.KMS.URI, "://")
		return scheme
	default:
		return ""
	}
}

// Files returns the files that it names and that may change, for a watcher.
func (s Signer) Files() []string {
	var files []string
	switch {
	case s.File != nil:
		files = []string{s.File.Key, s.File.PasswordFile}
	case s.PKCS11 != nil:
		files = []string{s.PKCS11.PINFile}
	case s.KMS != nil:
		files = []string{s.KMS.TokenFile, s.KMS.CAFile}
	}
	return slices.DeleteFunc(files, func(file string) bool { return file == "" })
}

// Flow returns the signer as one line of YAML, with its paths as written in a file of the folder
// dir: relative if they are below it, and absolute elsewhere.
func (s Signer) Flow(dir string) (string, error) {
	out, err := yaml.Marshal(yamlOf(reflect.ValueOf(s), field{}, dir))
	return strings.TrimSpace(string(out)), err
}

// ParseSigner reads a separate signer, from a flag or a small file: the value of `signer:` in a CA
// set. Relative paths are relative to dir. Mistakes give name as the file.
func ParseSigner(name string, content []byte, dir string) (Signer, error) {
	d := newDecoder(name)
	d.dir = dir
	s := &Signer{}
	d.read(content, false, s)
	s, _, err := result(d, s)
	if err != nil {
		return Signer{}, err
	}
	return *s, nil
}

// check makes the checks of a signer that is present.
func (s *Signer) check(d *decoder, path []string) {
	if !d.Sets(path...) {
		return
	}
	places := 0
	for _, there := range []bool{s.File != nil, s.PKCS11 != nil, s.KMS != nil} {
		if there {
			places++
		}
	}
	if places != 1 {
		d.wrong(path, "a signer has exactly one of the keys file, pkcs11 and kms; found %d", places)
	}
	if s.KMS == nil || s.KMS.URI == "" {
		return
	}
	k, at := s.KMS, join(path, "kms")
	scheme, _, _ := strings.Cut(k.URI, "://")
	switch vault := scheme == "hashivault" || scheme == "openbao"; {
	case !vault && scheme != "awskms" && scheme != "gcpkms" && scheme != "azurekms":
		d.wrong(join(at, "uri"), "found %q, expected a URI that begins with awskms://, gcpkms://, azurekms://, hashivault:// or openbao://", shorten(k.URI))
	case !vault && (k.Version > 0 || k.Address != "" || k.CAFile != "" || k.TokenFile != "" || k.Mount != ""):
		d.wrong(at, "version, address, ca_file, token_file and mount are for hashivault and openbao, not for %s", scheme)
	case vault && k.Version == 0:
		d.wrong(join(at, "version"), "version is missing: keys of %s have versions, and a rotation makes the newest one another key; a new key begins with version 1", scheme)
	}
}
