// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

// initFlags are the flags of mayfly ca init. With chain, it adopts the CA with this chain and the key in the
// file adopted.
type initFlags struct {
	config         ceremony.InitConfig
	key, root      signerFlag
	chain, adopted string
	out            output
}

func caInitCommand() *cobra.Command {
	var flags initFlags
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Create a root and an intermediate with encrypted keys, or adopt an existing CA",
		RunE: func(c *cobra.Command, args []string) error {
			if !flags.out.json() {
				return flags.run(c, args[0], c.OutOrStdout())
			}
			if err := flags.run(c, args[0], io.Discard); err != nil {
				return err
			}
			loaded, now, err := (&setFlags{set: args[0]}).read()
			if err != nil {
				return err
			}
			return printJSON(c.OutOrStdout(), loaded.StatusAt(now))
		},
	}
	f := c.Flags()
	f.StringVar(&flags.chain, "chain", "", "adopt the CA with this chain, a PEM file: the issuing CA first, the root last")
	f.StringVar(&flags.adopted, "key", "", "PEM file of the adopted CA's private key, which is copied")
	f.StringVar(&flags.config.Organization, "organization", "", `the O of both certificates (default "mayfly")`)
	f.StringVar(&flags.config.CommonName, "common-name", "", "what the CN of both begins with (default: the organization)")
	f.StringVar(&flags.config.Algorithm, "algorithm", "", "of both keys: "+strings.Join(ceremony.Algorithms(), ", ")+"; ecdsa-p256 signs three times faster (default "+ceremony.DefaultAlgorithm+")")
	flags.key.add(c, "signer", "where the intermediate's key is instead of a file", "password-file", "file with the password for the intermediate's key; with --key, of that key")
	flags.root.add(c, "root-signer", "where the root's key is instead of a file", "root-password-file", "file with the password for the root's key, which is then written nowhere")
	addOutput(c, &flags.out)
	return c
}

// run creates or adopts a CA in dir, and describes it for a person.
func (f *initFlags) run(c *cobra.Command, dir string, to io.Writer) error {
	if err := f.check(c); err != nil {
		return err
	}
	var err, rootErr error
	f.config.Signer, f.config.Password, err = f.key.parse()
	f.config.RootSigner, f.config.RootPassword, rootErr = f.root.parse()
	if err := errors.Join(err, rootErr); err != nil {
		return err
	}
	if f.chain != "" {
		return f.adopt(c, to, dir, f.config.Signer)
	}
	f.config.Dir, f.config.Now = dir, time.Now
	if err := f.config.Check(); err != nil {
		return err
	}
	var result *ceremony.Result
	err = withKeys(c, keyring.New(keyring.Config{}), func(context.Context, keys) (err error) {
		result, err = ceremony.Init(f.config)
		return err
	}, &f.root, &f.key)
	if err != nil {
		return err
	}
	notes := append(result.Keys, "Its root is in "+result.RootDir+": move that folder to a place that is offline.")
	err = printCA(to, result, fmt.Sprintf("The CA is in %s. Authority %s:", filepath.Dir(result.SetFile), result.AuthorityID), notes...)
	if err != nil || result.KeyFile == "" {
		return err
	}
	_, err = printable.Fprintf(to, `That set can rotate (mayfly ca add --help). One authority alone, which cannot:

ca:
  file: {chain: %s, key: %s, password_file: %s}
`, result.ChainFile, result.KeyFile, result.PasswordFile)
	return err
}

// readPassword returns the content of a file without the newline at its end; nil if no file is
// named.
func readPassword(c *cobra.Command, name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	data, err := readInput(c.InOrStdin(), name)
	if err == nil {
		data, err = files.Line(data)
	}
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		return nil, fmt.Errorf("%s holds no password", name)
	}
	return data, nil
}

// printCA describes what was created; notes follow the authority.
func printCA(out io.Writer, r *ceremony.Result, headline string, notes ...string) error {
	_, err := printable.Fprintf(out, "%s\n  %s\n  valid until %s\n", headline, r.Intermediate.Subject.String(), r.Intermediate.NotAfter.UTC().Format(time.RFC3339))
	for _, note := range notes {
		printable.Fprintf(out, "%s\n", note)
	}
	printable.Fprintf(out, "\nTo sign with it, write this in mayfly.yaml (paths are relative to that file):\n\nca: {set: %s}\n\n", r.SetFile)
	return err
}

// check refuses flags that contradict each other, or would be ignored.
func (f *initFlags) check(c *cobra.Command) error {
	if f.chain == "" && f.adopted == "" {
		return nil
	}
	if f.chain == "" || (f.adopted == "") != f.key.given() {
		return usageError{errors.New("to adopt a CA, --chain and either --key or --signer are required; without them a new CA is created")}
	}
	for _, name := range []string{"organization", "common-name", "algorithm", "root-signer", "root-password-file"} {
		if c.Flags().Changed(name) {
			return usageError{fmt.Errorf("--%s is for a new CA, and --chain names one that exists; leave one of them out", name)}
		}
	}
	return nil
}

// adopt loads an existing CA as a server does, and creates a CA set of it in dir.
func (f *initFlags) adopt(c *cobra.Command, to io.Writer, dir string, external *ceremony.ExternalKey) (err error) {
	now := time.Now()
	entry := config.CASetAuthority{ID: nextID(&config.CASet{}, now), Chain: f.chain, Signer: f.key.named}
	if external == nil {
		entry.Signer.File = &config.SignerFile{Key: f.adopted, PasswordFile: f.key.passwordFile}
	}
	ring := keyring.New(keyring.Config{})
	defer func() { err = errors.Join(err, ring.Close()) }()
	loaded, err := set.LoadAlone(c.Context(), entry, now, set.Keys{Ring: ring})
	if err != nil {
		return err
	}
	keys{err: c.ErrOrStderr()}.warn(append(loaded.Warnings, departures(loaded, now)...)...)
	var key crypto.Signer
	if external == nil {
		if key, _, err = file.Open(f.adopted, f.key.passwordFile); err != nil { // LoadAlone has warned
			return err
		}
	}
	existing := ceremony.Parent{Chain: loaded.Set.Members()[0].Chain.Certificates, Signer: key}
	result, err := ceremony.Adopt(dir, entry.ID, existing, external)
	if err != nil {
		return err
	}
	note := "Its key stays where it is."
	if f.adopted != "" {
		note = "The copy of its key is encrypted with a new password. Delete " + f.adopted + " once nothing else signs with it."
	}
	if err := printCA(to, result, "The CA was adopted as authority "+result.AuthorityID+":", note); err != nil {
		return err
	}
	_, err = fmt.Fprintln(to, "To rotate to another key: mayfly ca add --help.")
	return err
}
