// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/app/caset"
	"github.com/mayfly-ca/mayfly/internal/app/keyring"
)

// setFlags are the flags of the commands that read or edit a CA set.
type setFlags struct {
	set, config   string
	minimumLead   time.Duration
	force, asJSON bool
}

// readFlags adds what names the set.
func (f *setFlags) readFlags(c *cobra.Command) {
	c.Flags().StringVar(&f.set, "set", "", "the CA set: ca.yaml, or the folder that holds it (default: ca.set of --config, else ca.yaml here)")
	c.Flags().StringVar(&f.config, "config", "", "the server's configuration file, whose ca.set is meant")
}

// editFlags adds what an edit needs besides.
func (f *setFlags) editFlags(c *cobra.Command) {
	f.readFlags(c)
	c.Flags().DurationVar(&f.minimumLead, "minimum-lead", ca.PublicationLead, "how long an authority must be published before it signs")
	c.Flags().BoolVar(&f.force, "force", false, "do it though it breaks verifiers or stops issuance")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print the set's status as JSON")
}

// path returns the set's file.
func (f *setFlags) path() (string, error) {
	switch {
	case f.set != "" && f.config != "":
		return "", usageError{errors.New("--set and --config exclude each other")}
	case f.config != "":
		cfg, _, err := config.LoadServer(f.config, os.Environ())
		if err != nil {
			return "", err
		}
		if cfg.CA.Set == "" {
			return "", fmt.Errorf("%s names no CA set under ca.set; with ca.file there is one authority, and nothing to rotate", f.config)
		}
		return cfg.CA.Set, nil
	case f.set == "":
		return "ca.yaml", nil
	}
	if info, err := os.Stat(f.set); err == nil && info.IsDir() {
		return filepath.Join(f.set, "ca.yaml"), nil
	}
	return f.set, nil
}

func (f *setFlags) editor() (caset.Editor, error) {
	path, err := f.path()
	if f.minimumLead < 0 {
		err = usageError{errors.New("--minimum-lead must not be negative")}
	}
	return caset.Editor{Path: path, Now: time.Now(), Lead: max(f.minimumLead, 1), Force: f.force, Ring: keyring.New(keyring.Config{})}, err
}

// print shows what an edit did and what the set will do.
func (f *setFlags) print(c *cobra.Command, result *caset.Result, done string) error {
	for _, forced := range result.Forced {
		fmt.Fprintf(c.ErrOrStderr(), "mayfly: warning: forced: %v\n", forced)
	}
	if f.asJSON {
		return printJSON(c.OutOrStdout(), result.StatusAt(time.Now()))
	}
	fmt.Fprintf(c.OutOrStdout(), "%s\n\n", done)
	return result.StatusAt(time.Now()).Write(c.OutOrStdout())
}

// parseTime reads a time flag: RFC 3339, "now", or a duration from now such as +36h. "" is
// the zero time.
func parseTime(flag, text string) (time.Time, error) {
	switch {
	case text == "":
		return time.Time{}, nil
	case text == "now":
		return time.Now(), nil
	case strings.HasPrefix(text, "+"):
		d, err := time.ParseDuration(text[1:])
		if err != nil {
			return time.Time{}, usageError{fmt.Errorf("--%s: %w", flag, err)}
		}
		return time.Now().Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, usageError{fmt.Errorf("--%s is %q; it should be a time such as 2026-11-08T00:00:00Z, a duration from now such as +36h, or now", flag, text)}
	}
	return t, nil
}

// openParent opens a root as mayfly ca init leaves it: root.pem, and key.pem and, unless a
// password file is named, pass; or signer.yaml, which names where its key is. What it signs is
// bounded by ctx.
func openParent(ctx context.Context, c *cobra.Command, ring *keyring.Ring, dir, passwordFile string) (ceremony.Parent, error) {
	data, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	if err != nil {
		return ceremony.Parent{}, fmt.Errorf("reading the root: %w", err)
	}
	chain, err := ca.ParseChain(data)
	if err != nil {
		return ceremony.Parent{}, fmt.Errorf("%s: %w", filepath.Join(dir, "root.pem"), err)
	}
	key, warnings, err := rootKey(ctx, ring, dir, passwordFile)
	if err != nil {
		return ceremony.Parent{}, fmt.Errorf("opening the root's key: %w", err)
	}
	for _, warning := range warnings {
		fmt.Fprintf(c.ErrOrStderr(), "mayfly: warning: %v\n", warning)
	}
	signs := signer.Crypto(ctx, key)
	if public, ok := signs.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(chain.Certificates[0].PublicKey) {
		return ceremony.Parent{}, fmt.Errorf("the root's key is %s, and not the key of %s; name the one that belongs to it", signer.Describe(signs.Public()), filepath.Join(dir, "root.pem"))
	}
	return ceremony.Parent{Chain: chain.Certificates, Signer: signs}, nil
}

// subjectOr is subject with what it lacks taken from the parent's organization and a name.
func subjectOr(subject ceremony.Subject, parent *x509.Certificate, name string) ceremony.Subject {
	if subject.Organization == "" && len(parent.Subject.Organization) > 0 {
		subject.Organization = parent.Subject.Organization[0]
	}
	if subject.CommonName == "" {
		subject.CommonName = subject.Organization + " intermediate " + name
	}
	return subject
}
