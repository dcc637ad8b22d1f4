// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
)

// signerFlag is a flag that names a key outside the key file.
type signerFlag struct {
	name, value string
	command     *cobra.Command

	named config.Signer
	key   *ceremony.ExternalKey // set by parse; nil where the flag is not given
}

func (f *signerFlag) add(c *cobra.Command, name, usage string) {
	f.name, f.command = name, c
	c.Flags().StringVar(&f.value, name, "", usage+`, as behind "signer:" in ca.yaml: '{pkcs11: {module: …, token: …, label: …, pin_file: …}}', or @FILE that holds it`)
}

// given reports whether the flag is set, even to an empty value: if a script means a key elsewhere,
// the command must not create it in a file.
func (f *signerFlag) given() bool { return f.command.Flags().Changed(f.name) }

// excludes refuses other flags beside this one: they describe a key in a file, and would be
// ignored.
func (f *signerFlag) excludes(others ...string) error {
	var errs []error
	for _, other := range others {
		if f.given() && f.command.Flags().Changed(other) {
			errs = append(errs, usageError{fmt.Errorf("--%s is for a key in a file, and --%s names one that is elsewhere; give one of them", other, f.name)})
		}
	}
	return errors.Join(errs...)
}

// parse parses the value of the flag, and opens nothing.
func (f *signerFlag) parse() (err error) {
	if !f.given() {
		return nil
	}
	name, content, dir := "--"+f.name, []byte(f.value), "."
	if path, isFile := strings.CutPrefix(f.value, "@"); isFile {
		if content, err = files.Read(path, maxInput); err != nil {
			return fmt.Errorf("--%s: %w", f.name, err)
		}
		name, dir = path, filepath.Dir(path)
	}
	if f.named, err = config.ParseSigner(name, content, dir); err == nil {
		f.key = newExternal(f.named)
	}
	return err
}

// place adds the name of the flag to err.
func (f *signerFlag) place(err error) error { return fmt.Errorf("--%s: %w", f.name, err) }
