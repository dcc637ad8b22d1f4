// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

// adoption is the existing CA that mayfly ca init adopts; without a chain, it creates a new one.
type adoption struct {
	chain, key string
	signer     *signerFlag
}

// check refuses flags that contradict each other, or would be ignored.
func (a adoption) check(c *cobra.Command) error {
	if a.chain == "" && a.key == "" {
		return nil
	}
	if a.chain == "" || (a.key == "") != a.signer.given() {
		return usageError{errors.New("to adopt a CA, --chain and either --key or --signer are required; without them a new CA is created")}
	}
	for _, name := range []string{"organization", "common-name", "algorithm", "root-signer", "root-password-file"} {
		if c.Flags().Changed(name) {
			return usageError{fmt.Errorf("--%s is for a new CA, and --chain names one that exists; leave one of them out", name)}
		}
	}
	return nil
}

// run loads the CA as a server does, and creates a CA set of it in dir.
func (a adoption) run(c *cobra.Command, to io.Writer, dir string, external *ceremony.ExternalKey) (err error) {
	now := time.Now()
	entry := config.CASetAuthority{ID: nextID(&config.CASet{}, now), Chain: a.chain, Signer: a.signer.named}
	if external == nil {
		entry.Signer.File = &config.SignerFile{Key: a.key, PasswordFile: a.signer.passwordFile}
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
		if key, _, err = file.Open(a.key, a.signer.passwordFile); err != nil { // LoadAlone has warned
			return err
		}
	}
	chain := loaded.Set.Members()[0].Chain
	result, err := ceremony.Adopt(ceremony.AdoptConfig{
		Dir: dir, ID: entry.ID, Chain: chain.Certificates, Since: chain.NotBefore, Key: key, Signer: external,
	})
	if err != nil {
		return err
	}
	return a.print(to, result)
}

func (a adoption) print(out io.Writer, r *ceremony.Result) error {
	key := "Its key stays where it is."
	if a.key != "" {
		key = fmt.Sprintf("The copy of its key is encrypted with a new password. Delete %s once nothing else signs with it.", a.key)
	}
	_, err := printable.Fprintf(out, `The CA was adopted as authority %s:
  %s
  valid until %s

%s

To sign with it, write this in mayfly.yaml (paths are relative to that file):

ca: {set: %s}

To rotate to another key: mayfly ca add --help.
`, r.AuthorityID, r.Intermediate.Subject, r.Intermediate.NotAfter.UTC().Format(time.RFC3339), key, r.SetFile)
	return err
}
