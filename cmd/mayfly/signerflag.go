// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
)

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
