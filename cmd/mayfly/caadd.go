// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/config"
)

// addFlags are the flags of mayfly ca add.
type addFlags struct {
	setFlags
	root                  rootFolder
	chain, key, algorithm string
	subject               ceremony.Subject
	publishAt, activateAt time.Time
	signer                signerFlag
}

func caAddCommand() *cobra.Command {
	var flags addFlags
	c := &cobra.Command{
		Use:   "add [ID]",
		Short: "Add an authority to the set and publish it",
		RunE:  func(c *cobra.Command, args []string) error { return flags.run(c, strings.Join(args, "")) },
	}
	flags.editFlags(c)
	f := c.Flags()
	flags.root.add(c, "folder of the root that signs the new intermediate")
	f.StringVar(&flags.chain, "chain", "", "PEM file of an authority made elsewhere: the issuing CA first, the root last")
	f.StringVar(&flags.key, "key", "", "PEM file of its private key")
	flags.signer.add(c, "signer", "where its key is instead of a file", "password-file", "file with the password of its key; with --root, of the key to be made")
	f.StringVar(&flags.algorithm, "algorithm", "", "of the new key (default "+ceremony.DefaultAlgorithm+")")
	f.StringVar(&flags.subject.CommonName, "common-name", "", "the CN of the new intermediate (default: ORGANIZATION intermediate ID)")
	f.StringVar(&flags.subject.Organization, "organization", "", "its O (default: the root's)")
	addTime(c, &flags.publishAt, "publish-at", "when it enters the trust bundle (default: now)")
	addTime(c, &flags.activateAt, "activate-at", "when it begins to sign (default: not decided)")
	return c
}

// check refuses flags that contradict each other, or would be ignored.
func (f *addFlags) check(c *cobra.Command) error {
	elsewhere := f.signer.given()
	if (f.root.dir == "") == (f.chain == "") || f.key != "" && (f.chain == "" || elsewhere) || f.chain != "" && f.key == "" && !elsewhere {
		return usageError{errors.New("either --root, or --chain and --key or --signer are required; see mayfly ca add --help")}
	}
	var errs []error
	for _, name := range []string{"root-password-file", "algorithm", "common-name", "organization"} {
		if f.chain != "" && c.Flags().Changed(name) {
			errs = append(errs, usageError{fmt.Errorf("--%s is for an authority that is made here (--root), and --chain names one that is there", name)})
		}
	}
	if err := f.root.check(); err != nil {
		errs = append(errs, usageError{err})
	}
	return errors.Join(errs...)
}

func (f *addFlags) run(c *cobra.Command, id string) (err error) {
	if err := f.check(c); err != nil {
		return err
	}
	key, password, err := f.signer.parse()
	if err != nil {
		return err
	}
	editor, err := f.editor()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, editor.Ring.Close()) }()
	entry, err := f.entry(editor, id)
	if err != nil {
		return err
	}
	created := "" // a folder that no other set uses
	var create func(*config.CASetAuthority) error
	if f.root.dir != "" {
		create = func(entry *config.CASetAuthority) error {
			made, err := f.make(c, editor, entry.ID, key, password)
			if err != nil {
				return err
			}
			entry.Chain, created = made.ChainFile, filepath.Dir(made.ChainFile)
			if key == nil {
				entry.Signer.File = &config.SignerFile{Key: made.KeyFile, PasswordFile: made.PasswordFile}
			}
			return nil
		}
	}
	result, err := editor.Add(c.Context(), entry, create)
	if err != nil && created != "" {
		err = key.Stays(errors.Join(err, os.RemoveAll(created)))
	}
	if err != nil {
		return err
	}
	return f.print(c, result, fmt.Sprintf("Authority %s was added.", entry.ID))
}

// entry is the authority as the flags describe it.
func (f *addFlags) entry(editor set.Editor, id string) (entry config.CASetAuthority, err error) {
	entry = config.CASetAuthority{ID: id, Chain: f.chain, Signer: f.signer.named, PublishAt: f.publishAt, ActivateAt: f.activateAt}
	if f.key != "" {
		entry.Signer.File = &config.SignerFile{Key: f.key, PasswordFile: f.signer.passwordFile}
	}
	if entry.ID == "" {
		set, _, err := config.LoadCASet(editor.Path)
		if err != nil {
			return entry, err
		}
		entry.ID = nextID(set, editor.Now)
	}
	if !config.ValidAuthorityID(entry.ID) {
		return entry, usageError{fmt.Errorf("the ID %q should be up to 64 lower-case letters, digits, dots, hyphens and underscores", entry.ID)}
	}
	return entry, nil
}

// make creates the authority in a folder beside the set.
func (f *addFlags) make(c *cobra.Command, editor set.Editor, id string, key *ceremony.ExternalKey, password []byte) (result *ceremony.Result, err error) {
	parent, err := f.root.parent()
	if err != nil {
		return nil, err
	}
	cfg := ceremony.AuthorityConfig{
		Dir: filepath.Join(filepath.Dir(editor.Path), id),
		PlannedCertificate: ceremony.PlannedCertificate{
			Subject: withDefaults(f.subject, organizationOf(parent.Chain[0]), id), Algorithm: f.algorithm, Password: password, Signer: key, NotBefore: editor.Now,
		},
		Parent: parent,
	}
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	err = withKeys(c, editor.Ring, func(ctx context.Context, keys keys) (err error) {
		if err = f.root.open(ctx, keys, &cfg.Parent); err == nil {
			result, err = ceremony.NewAuthority(cfg)
		}
		return err
	}, &f.signer)
	return result, err
}

// nextID is the year and the first letter that is free: 2026-a, 2026-b.
func nextID(set *config.CASet, now time.Time) string {
	for letter := 'a'; letter <= 'z'; letter++ {
		if id := fmt.Sprintf("%d-%c", now.Year(), letter); set.Index(id) < 0 {
			return id
		}
	}
	return fmt.Sprintf("%d-%d", now.Year(), now.Unix())
}
