// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

// commandTimeout bounds, in total, what a command does with keys outside this machine's files.
const commandTimeout = 2 * time.Minute

// keys opens the keys of one command, and creates missing ones. The process stops soon, and with it
// closes the keys.
type keys struct {
	ring *keyring.Ring
	err  io.Writer // receives warnings
}

// withKeys opens the keys of flags that exist, and calls do, which may open others and use all of them for up
// to commandTimeout.
func withKeys(c *cobra.Command, ring *keyring.Ring, do func(context.Context, keys) error, flags ...*signerFlag) error {
	ctx, cancel := context.WithTimeout(c.Context(), commandTimeout)
	defer cancel()
	k := keys{ring, c.ErrOrStderr()}
	var errs []error
	for _, f := range flags {
		if f.key != nil {
			warnings, err := k.look(ctx, f.named, f.key, f.place)
			k.warn(warnings...)
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return do(ctx, k)
}

func (k keys) warn(warnings ...error) {
	for _, warning := range warnings {
		printable.Fprintf(k.err, "mayfly: warning: %v\n", warning)
	}
}

// newExternal is a key before the first attempt to open it.
func newExternal(named config.Signer) *ceremony.ExternalKey {
	return &ceremony.ExternalKey{Where: whereIs(named), Block: named.Flow}
}

// look opens the key that named names. If it does not exist, the ceremony creates it later, once
// nothing else is wrong. place adds the place to errors and warnings.
func (k keys) look(ctx context.Context, named config.Signer, key *ceremony.ExternalKey, place func(error) error) (warnings []error, err error) {
	opened, warnings, err := k.ring.Open(ctx, named)
	for i := range warnings {
		warnings[i] = place(warnings[i])
	}
	switch {
	case err == nil:
		key.Signer = signer.Crypto(ctx, opened)
		return warnings, nil
	case !keyring.NoKey(err):
		return warnings, place(err)
	}
	key.Make = func(algorithm string) (crypto.Signer, bool, error) {
		opened, made, err := k.ring.Make(ctx, named, algorithm)
		if err != nil {
			return nil, false, place(err)
		}
		return signer.Crypto(ctx, opened), made, nil
	}
	return warnings, nil
}

// whereIs describes for people where a key is. It contains no secret.
func whereIs(named config.Signer) string {
	switch {
	case named.PKCS11 != nil:
		key := fmt.Sprintf("%q", named.PKCS11.Label)
		if id := named.PKCS11.ID; id != nil {
			key += fmt.Sprintf(" with the ID %x", id)
		}
		return fmt.Sprintf("in the token %q as %s, by %s", named.PKCS11.Token, key, named.PKCS11.Module)
	case named.KMS != nil && named.KMS.Version > 0:
		return fmt.Sprintf("at %s in version %d", named.KMS.URI, named.KMS.Version)
	case named.KMS != nil:
		return "at " + named.KMS.URI
	case named.File != nil:
		return "in the file " + named.File.Key
	default:
		return ""
	}
}

// signerFlag is a flag that names a key outside the key file, and the flag that it excludes: of the
// password of a key in a file.
type signerFlag struct {
	name, value                string
	passwordName, passwordFile string
	command                    *cobra.Command

	named config.Signer
	key   *ceremony.ExternalKey // set by parse; nil where the flag is not given
}

// add adds both flags. Their usages describe the key and the password file.
func (f *signerFlag) add(c *cobra.Command, name, usage, passwordName, passwordUsage string) {
	f.name, f.passwordName, f.command = name, passwordName, c
	c.Flags().StringVar(&f.passwordFile, passwordName, "", passwordUsage)
	c.Flags().StringVar(&f.value, name, "", usage+`, as behind "signer:" in ca.yaml: '{pkcs11: {module: …, token: …, label: …, pin_file: …}}', or @FILE that holds it`)
}

// given reports whether the flag is set, even to an empty value: if a script means a key elsewhere,
// the command must not create it in a file.
func (f *signerFlag) given() bool { return f.command.Flags().Changed(f.name) }

// parse returns the key that the flag names, which it does not open; without the flag, the password
// for a key in a file, nil if none is given.
func (f *signerFlag) parse() (key *ceremony.ExternalKey, password []byte, err error) {
	if !f.given() {
		password, err = readPassword(f.command, f.passwordFile)
		return nil, password, err
	}
	if f.command.Flags().Changed(f.passwordName) {
		return nil, nil, usageError{fmt.Errorf("--%s is for a key in a file, and --%s names one that is elsewhere; give one of them", f.passwordName, f.name)}
	}
	name, content, dir := "--"+f.name, []byte(f.value), "."
	if path, isFile := strings.CutPrefix(f.value, "@"); isFile {
		if content, err = files.Read(path, maxInput); err != nil {
			return nil, nil, f.place(err)
		}
		name, dir = path, filepath.Dir(path)
	}
	if f.named, err = config.ParseSigner(name, content, dir); err == nil {
		f.key = newExternal(f.named)
	}
	return f.key, nil, err
}

// place adds the name of the flag to err.
func (f *signerFlag) place(err error) error { return fmt.Errorf("--%s: %w", f.name, err) }

// rootFolder is a root as mayfly ca init creates it: root.pem, and key.pem and, unless a password
// file is named, pass; or signer.yaml, which names where its key is.
type rootFolder struct{ dir, passwordFile string }

// add adds the flags that name the root.
func (r *rootFolder) add(c *cobra.Command, usage string) {
	c.Flags().StringVar(&r.dir, "root", "", usage+": root.pem, and key.pem and pass, or signer.yaml")
	c.Flags().StringVar(&r.passwordFile, "root-password-file", "", "file with the password of the root's key (default: pass in its folder)")
}

func (r rootFolder) in(name string) string { return filepath.Join(r.dir, name) }

// check refuses a password that would be ignored.
func (r rootFolder) check() error {
	if r.passwordFile == "" {
		return nil
	}
	if _, err := os.Stat(r.in("signer.yaml")); err == nil {
		return fmt.Errorf("a password is given, and %s says that the root's key is in no file", r.in("signer.yaml"))
	}
	return nil
}

// parent reads the root's chain, and does not open its key.
func (r rootFolder) parent() (ceremony.Parent, error) {
	data, err := files.Read(r.in("root.pem"), maxInput)
	if err != nil {
		return ceremony.Parent{}, fmt.Errorf("reading the root: %w", err)
	}
	chain, err := ca.ParseChain(data)
	if err != nil {
		return ceremony.Parent{}, fmt.Errorf("%s: %w", r.in("root.pem"), err)
	}
	return ceremony.Parent{Chain: chain.Certificates}, nil
}

// open opens the key of parent. ctx bounds the signatures of the key.
func (r rootFolder) open(ctx context.Context, keys keys, parent *ceremony.Parent) error {
	named, err := r.signer()
	if err != nil {
		return fmt.Errorf("opening the root's key: %w", err)
	}
	key, warnings, err := keys.ring.Open(ctx, named)
	keys.warn(warnings...)
	if err != nil {
		return fmt.Errorf("opening the root's key: %w", err)
	}
	signs := signer.Crypto(ctx, key)
	if public, ok := signs.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(parent.Chain[0].PublicKey) {
		return fmt.Errorf("the root's key is %s, and not the key of %s; name the one that belongs to it", signer.Describe(signs.Public()), r.in("root.pem"))
	}
	parent.Signer = signs
	return nil
}

// signer is where the root's key is.
func (r rootFolder) signer() (config.Signer, error) {
	content, err := files.Read(r.in("signer.yaml"), maxInput)
	switch {
	case err == nil:
		return config.ParseSigner(r.in("signer.yaml"), content, r.dir)
	case !errors.Is(err, os.ErrNotExist):
		return config.Signer{}, err
	}
	file := &config.SignerFile{Key: r.in("key.pem"), PasswordFile: r.passwordFile}
	if file.PasswordFile == "" {
		file.PasswordFile = r.in("pass")
		if _, err := os.Stat(file.PasswordFile); errors.Is(err, os.ErrNotExist) {
			file.PasswordFile = "" // the key may be unencrypted, as openssl writes it
		}
	}
	return config.Signer{File: file}, nil
}
