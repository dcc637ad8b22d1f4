// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

func caCeremonyCommand() *cobra.Command {
	var planFile, out string
	c := &cobra.Command{
		Use:   "ceremony",
		Short: "Make an offline root and intermediates from one file, with a transcript",
		Long: `Make a root and the intermediates below it, as one YAML file describes them, in a new
folder: keys (encrypted), chains, ca.yaml and transcript.txt. Every certificate is held
against the certificate specification before it is signed, with a key that is thrown away,
and after. No network is used: run it on a machine that has none.

  root:
    common_name: Example root
    organization: Example Corp
    # algorithm: ecdsa-p384, not_before, not_after, password_file
    # signer: {pkcs11: {…}} where the key is in a hardware module or at a service
    # or a root that is there already: {folder: root, password_file: …}
  intermediates:
    - id: 2026-a
      # common_name, organization, algorithm, not_before, not_after, password_file,
      # signer, publish_at, activate_at; or the key is elsewhere: request: request.csr`,
		Example: "  mayfly ca ceremony --plan ceremony.yaml --out ./ca",
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if planFile == "" || out == "" {
				return usageError{errors.New("--plan and --out are required; see mayfly ca ceremony --help")}
			}
			cfg, _, err := config.LoadCeremony(planFile)
			if err != nil {
				return err
			}
			planner := planner{c: c, cfg: cfg}
			if err := planner.read(planFile); err != nil {
				return err
			}
			planner.plan.Dir = out
			if err := planner.plan.Check(); err != nil {
				return cfg.WithPlaces(err)
			}
			var transcript string
			err = withKeys(c, keyring.New(keyring.Config{}), func(ctx context.Context, keys keys) (err error) {
				if err := planner.look(ctx, keys); err != nil {
					return err
				}
				transcript, err = ceremony.Run(planner.plan)
				return cfg.WithPlaces(err)
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.OutOrStdout(), transcript)
			return err
		},
	}
	c.Flags().StringVar(&planFile, "plan", "", "the file that describes the ceremony, YAML (required)")
	c.Flags().StringVar(&out, "out", "", "the folder that gets everything; it must not exist, or be empty (required)")
	return c
}

// planner turns the file of a ceremony into a plan, and then looks for its keys.
type planner struct {
	c    *cobra.Command
	cfg  *config.Ceremony
	plan ceremony.Plan
}

func (p *planner) root() rootFolder {
	return rootFolder{p.cfg.Root.Folder, p.cfg.Root.PasswordFile}
}

// read reads all files that the plan names except keys.
func (p *planner) read(planFile string) error {
	content, err := files.Read(planFile, maxInput)
	if err != nil {
		return err
	}
	p.plan = ceremony.Plan{Now: time.Now(), Notes: []string{
		"mayfly " + version(),
		fmt.Sprintf("plan %s, SHA-256 %x", planFile, sha256.Sum256(content)),
	}}
	if err := p.readRoot(); err != nil {
		return err
	}
	organization := p.plan.Root.Subject.Organization
	if p.plan.Parent != nil && len(p.plan.Parent.Chain[0].Subject.Organization) > 0 {
		organization = p.plan.Parent.Chain[0].Subject.Organization[0]
	}
	for _, entry := range p.cfg.Intermediates {
		intermediate := entry.Planned
		if err := p.complete(&intermediate.PlannedCertificate, entry.CeremonyKey); err != nil {
			return err
		}
		if entry.Request != "" {
			if intermediate.Request, err = readInput(p.c.InOrStdin(), entry.Request); err != nil {
				return err
			}
		} else {
			subject := &intermediate.Subject
			subject.Organization = cmp.Or(subject.Organization, organization)
			subject.CommonName = cmp.Or(subject.CommonName, subject.Organization+" intermediate "+intermediate.ID)
		}
		p.plan.Intermediates = append(p.plan.Intermediates, intermediate)
	}
	return nil
}

func (p *planner) readRoot() (err error) {
	if p.cfg.Root.Folder == "" {
		p.plan.Root = p.cfg.Root.Planned
		return p.complete(&p.plan.Root, p.cfg.Root.CeremonyKey)
	}
	if err := p.root().check(); err != nil {
		return p.cfg.WithPlaces(keypath.Prefix(err, "root", "password_file"))
	}
	parent, err := p.root().parent()
	p.plan.Parent = &parent
	return err
}

// complete adds the key to what the file states.
func (p *planner) complete(planned *ceremony.PlannedCertificate, key config.CeremonyKey) (err error) {
	if !key.Signer.IsZero() {
		planned.Signer = newExternal(key.Signer)
	}
	planned.Password, err = readPassword(p.c, key.PasswordFile)
	return err
}

// look opens the keys that exist, and returns the errors of all that it cannot open.
func (p *planner) look(ctx context.Context, keys keys) error {
	if p.plan.Parent != nil {
		if err := p.root().open(ctx, keys, p.plan.Parent); err != nil {
			return err
		}
	}
	var errs []error
	look := func(named config.Signer, key *ceremony.ExternalKey, path ...string) {
		if key == nil {
			return
		}
		warnings, err := keys.look(ctx, named, key, func(err error) error { return keypath.Prefix(err, "signer") })
		for _, warning := range warnings {
			keys.warn(p.cfg.WithPlaces(keypath.Prefix(warning, path...)))
		}
		errs = append(errs, keypath.Prefix(err, path...))
	}
	look(p.cfg.Root.Signer, p.plan.Root.Signer, "root")
	for i, entry := range p.cfg.Intermediates {
		look(entry.Signer, p.plan.Intermediates[i].Signer, "intermediates", strconv.Itoa(i))
	}
	return p.cfg.WithPlaces(errors.Join(errs...))
}
