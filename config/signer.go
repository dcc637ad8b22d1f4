// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Signer is `signer`: the place of a private key. Exactly one of its fields is present;
// docs/signers.md has a working block for each.
type Signer struct {
	// File is `file`: the key is in a file, and in the memory of the signing process.
	File *SignerFile
	// PKCS11 is `pkcs11`: the key is in a hardware module.
	PKCS11 *SignerPKCS11
	// KMS is `kms`: the key is in a key-management service.
	KMS *SignerKMS
}

// SignerFile is `signer.file`.
type SignerFile struct {
	// Key is `key`, the PEM file of the private key. It is required.
	Key string
	// PasswordFile is `password_file`: the password of an encrypted key, without the
	// newline at its end.
	PasswordFile string
	// Password is the value of MAYFLY_CA_FILE_PASSWORD, for `ca.file` alone.
	Password Secret
}

// SignerPKCS11 is `signer.pkcs11`. Every key except ID and PINFile is required.
type SignerPKCS11 struct {
	// Module is `module`: the file of the PKCS#11 library.
	Module string
	// Token is `token`: the label of the token.
	Token string
	// Label is `label`: the CKA_LABEL of the key.
	Label string
	// ID is `id`: the CKA_ID of the key in hexadecimal digits, for a token with several keys of the
	// same label.
	ID string
	// PINFile is `pin_file`: the file of the user PIN, without the newline at its end. It may be
	// absent for a token that requires no login.
	PINFile string
}

// SignerKMS is `signer.kms`.
type SignerKMS struct {
	// URI is `uri`: awskms://…, gcpkms://…, azurekms://…, hashivault://NAME or openbao://NAME. It
	// is required, and names one version of the key if the service has versions in its URIs.
	URI string
	// Version is `version`: the version of the key, from 1 on. hashivault and openbao require it,
	// and no other service permits it.
	Version uint64
	// Address is `address`, of hashivault and openbao: the service's URL. By default
	// VAULT_ADDR or BAO_ADDR.
	Address string
	// TokenFile is `token_file`, of hashivault and openbao: the file of the token, read again
	// whenever the service refuses the previous one. By default VAULT_TOKEN or BAO_TOKEN.
	TokenFile string
	// Mount is `mount`, of hashivault and openbao: the path of the transit engine, transit
	// by default.
	Mount string
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
func (s Signer) Files() (files []string) {
	for _, file := range s.paths() {
		if *file != "" && (s.PKCS11 == nil || file != &s.PKCS11.Module) {
			files = append(files, *file)
		}
	}
	return files
}

// paths returns those of its values that are paths.
func (s Signer) paths() []*string {
	switch {
	case s.File != nil:
		return []*string{&s.File.Key, &s.File.PasswordFile}
	case s.PKCS11 != nil:
		return []*string{&s.PKCS11.Module, &s.PKCS11.PINFile}
	case s.KMS != nil:
		return []*string{&s.KMS.TokenFile}
	default:
		return nil
	}
}

// Flow returns the signer as one line of YAML, with its paths as written in a file of the folder
// dir: relative if they are below it, and absolute elsewhere.
func (s Signer) Flow(dir string) (string, error) {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	if err := encoder.Encode(s.node(func(path string) string { return relativeTo(dir, path) })); err != nil {
		return "", fmt.Errorf("writing a signer: %w", err)
	}
	return strings.TrimSpace(out.String()), nil
}

// node returns the signer as YAML in flow style, with paths as relative returns them.
func (s Signer) node(relative func(string) string) *yaml.Node {
	mappingNode := func() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Style: yaml.FlowStyle} }
	place := mappingNode()
	put := func(key, value string) {
		if value != "" {
			place.Content = append(place.Content, textNode(key), textNode(value))
		}
	}
	putPath := func(key, path string) {
		if path != "" {
			put(key, relative(path))
		}
	}
	name := ""
	switch {
	case s.File != nil:
		name = "file"
		putPath("key", s.File.Key)
		putPath("password_file", s.File.PasswordFile)
	case s.PKCS11 != nil:
		name = "pkcs11"
		putPath("module", s.PKCS11.Module)
		put("token", s.PKCS11.Token)
		put("label", s.PKCS11.Label)
		put("id", s.PKCS11.ID)
		putPath("pin_file", s.PKCS11.PINFile)
	case s.KMS != nil:
		name = "kms"
		put("uri", s.KMS.URI)
		if s.KMS.Version > 0 {
			place.Content = append(place.Content, textNode("version"), &yaml.Node{Kind: yaml.ScalarNode, Tag: tagInt, Value: strconv.FormatUint(s.KMS.Version, 10)})
		}
		put("address", s.KMS.Address)
		putPath("token_file", s.KMS.TokenFile)
		put("mount", s.KMS.Mount)
	}
	whole := mappingNode()
	whole.Content = append(whole.Content, textNode(name), place)
	return whole
}

// ParseSigner reads a separate signer, from a flag or a small file: the value of `signer:` in a CA
// set. Relative paths are relative to dir. Mistakes give name as the file.
func ParseSigner(name string, content []byte, dir string) (Signer, error) {
	r := &report{file: name}
	file, ok := parse(r, content, yamlOnly)
	if !ok {
		_, err := r.result()
		return Signer{}, err
	}
	var s Signer
	l := &setLoader{decoder: &decoder{report: r}, dir: dir}
	l.signer(&s)(file.root)
	if _, err := r.result(); err != nil {
		return Signer{}, err
	}
	return s, nil
}

// signer reads a signer.
func (l *setLoader) signer(s *Signer) reader {
	return func(n *node) {
		before := len(l.mistakes)
		l.object(
			field{name: "file", read: func(n *node) { s.File = &SignerFile{}; l.signerFile(s.File)(n) }},
			field{name: "pkcs11", read: func(n *node) { s.PKCS11 = &SignerPKCS11{}; l.signerPKCS11(s.PKCS11)(n) }},
			field{name: "kms", read: func(n *node) { s.KMS = &SignerKMS{}; l.signerKMS(s.KMS)(n) }},
		)(n)
		places := 0
		for _, there := range []bool{s.File != nil, s.PKCS11 != nil, s.KMS != nil} {
			if there {
				places++
			}
		}
		if len(l.mistakes) == before && places != 1 {
			l.mistake(n.at, "a signer has exactly one of the keys file, pkcs11 and kms; found %d", places)
		}
	}
}

// required is a required key, its value and its purpose.
type required struct{ key, value, what string }

func (l *setLoader) demand(n *node, values ...required) {
	for _, must := range values {
		if must.value == "" {
			l.mistake(n.at, "%s is missing: it %s", must.key, must.what)
		}
	}
}

func (l *setLoader) signerFile(f *SignerFile) reader {
	return func(n *node) {
		l.object(
			field{name: "key", read: l.path(&f.Key)},
			field{name: "password_file", read: l.path(&f.PasswordFile)},
		)(n)
		l.demand(n, required{"key", f.Key, "names the PEM file of the authority's private key"})
	}
}

func (l *setLoader) signerPKCS11(p *SignerPKCS11) reader {
	return func(n *node) {
		before := len(l.mistakes)
		l.object(
			field{name: "module", read: l.path(&p.Module)},
			field{name: "token", read: l.text(&p.Token)},
			field{name: "label", read: l.text(&p.Label)},
			field{name: "id", read: l.hexadecimal(&p.ID)},
			field{name: "pin_file", read: l.path(&p.PINFile)},
		)(n)
		if len(l.mistakes) > before {
			return
		}
		l.demand(n,
			required{"module", p.Module, "names the file of the PKCS#11 library"},
			required{"token", p.Token, "is the label of the token"},
			required{"label", p.Label, "is the label of the key in the token"})
	}
}

// hexadecimal reads bytes as hexadecimal digits, which YAML may read as a number.
func (l *setLoader) hexadecimal(into *string) reader {
	return func(n *node) {
		if _, err := hex.DecodeString(n.value); n.kind != scalar || err != nil {
			l.mistake(n.at, "found %s, where pairs of hexadecimal digits are wanted, in quotes, such as \"01ab\"", n.what())
			return
		}
		*into = n.value
	}
}

func (l *setLoader) signerKMS(k *SignerKMS) reader {
	return func(n *node) {
		before := len(l.mistakes)
		l.object(
			field{name: "uri", read: l.text(&k.URI)},
			field{name: "version", read: l.count(&k.Version)},
			field{name: "address", read: l.text(&k.Address)},
			field{name: "token_file", read: l.path(&k.TokenFile)},
			field{name: "mount", read: l.text(&k.Mount)},
		)(n)
		if len(l.mistakes) > before {
			return
		}
		scheme, _, _ := strings.Cut(k.URI, "://")
		vault := scheme == "hashivault" || scheme == "openbao"
		switch {
		case k.URI == "":
			l.mistake(n.at, "uri is missing: it names the key, as in awskms://…, gcpkms://…, azurekms://…, hashivault://NAME or openbao://NAME")
		case !vault && scheme != "awskms" && scheme != "gcpkms" && scheme != "azurekms":
			l.mistake(n.at, "found the uri %q, where one is wanted that begins with awskms://, gcpkms://, azurekms://, hashivault:// or openbao://", shorten(k.URI))
		case !vault && (k.Version > 0 || k.Address != "" || k.TokenFile != "" || k.Mount != ""):
			l.mistake(n.at, "version, address, token_file and mount are for hashivault and openbao, and mean nothing to %s", scheme)
		case vault && k.Version == 0:
			l.mistake(n.at, "version is missing: keys of %s have versions, and the newest becomes another key when somebody rotates it; a new key begins with version 1", scheme)
		}
	}
}

// count reads a whole number from 1 on.
func (l *setLoader) count(into *uint64) reader {
	return func(n *node) {
		value, err := strconv.ParseUint(n.value, 10, 63)
		if n.kind != scalar || n.tag != tagInt || err != nil || value == 0 {
			l.mistake(n.at, "found %s, where a whole number from 1 on is wanted", n.what())
			return
		}
		*into = value
	}
}

// relativeTo returns path as written in a file of the folder dir. It is relative below dir and
// absolute elsewhere, so that its meaning does not depend on the working directory.
func relativeTo(dir, path string) string {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return path
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(dir, absolute); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return absolute
}
