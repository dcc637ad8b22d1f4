// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/app/keyring"
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
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if planFile == "" || out == "" {
				return usageError{errors.New("--plan and --out are demanded; see mayfly ca ceremony --help")}
			}
			cfg, _, err := config.LoadCeremony(planFile)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), commandTimeout)
			defer cancel()
			ring := keyring.New(keyring.Config{}) // the process ends soon, and with it what is opened
			if err := ceremony.CheckDir(out); err != nil {
				return err // before a key is made for nothing
			}
			plan, err := planner{c, ring}.plan(ctx, cfg, planFile)
			if err != nil {
				return err
			}
			plan.Dir = out
			transcript, err := ceremony.Run(plan)
			if err != nil {
				return cfg.Explain(err)
			}
			_, err = fmt.Fprint(c.OutOrStdout(), transcript)
			return err
		},
	}
	c.Flags().StringVar(&planFile, "plan", "", "the file that describes the ceremony, YAML (demanded)")
	c.Flags().StringVar(&out, "out", "", "the folder that gets everything; it must not exist, or be empty (demanded)")
	return c
}

// planner turns the file of a ceremony into a plan, for which it opens and makes keys.
type planner struct {
	c    *cobra.Command
	ring *keyring.Ring
}

func (p planner) plan(ctx context.Context, cfg *config.Ceremony, planFile string) (ceremony.Plan, error) {
	content, err := os.ReadFile(planFile)
	if err != nil {
		return ceremony.Plan{}, err
	}
	plan := ceremony.Plan{Now: time.Now(), Notes: []string{
		"mayfly " + version(),
		fmt.Sprintf("plan %s, SHA-256 %x", planFile, sha256.Sum256(content)),
	}}
	if cfg.Root.Folder != "" {
		parent, err := openParent(ctx, p.c, p.ring, cfg.Root.Folder, cfg.Root.PasswordFile)
		if err != nil {
			return plan, err
		}
		plan.Parent = &parent
	} else if plan.Root, err = p.certificate(ctx, cfg.Root.CeremonyCertificate); err != nil {
		return plan, cfg.Explain(keypath.Prefix(err, "root"))
	}
	organization := plan.Root.Subject.Organization
	if plan.Parent != nil && len(plan.Parent.Chain[0].Subject.Organization) > 0 {
		organization = plan.Parent.Chain[0].Subject.Organization[0]
	}
	for i, entry := range cfg.Intermediates {
		intermediate := ceremony.PlannedIntermediate{ID: entry.ID, PublishAt: entry.PublishAt, ActivateAt: entry.ActivateAt}
		if intermediate.PlannedCertificate, err = p.certificate(ctx, entry.CeremonyCertificate); err != nil {
			return plan, cfg.Explain(keypath.Prefix(err, "intermediates", strconv.Itoa(i)))
		}
		if entry.Request != "" {
			if intermediate.Request, err = readInput(p.c.InOrStdin(), entry.Request); err != nil {
				return plan, err
			}
		} else {
			subject := &intermediate.Subject
			if subject.Organization == "" {
				subject.Organization = organization
			}
			if subject.CommonName == "" {
				subject.CommonName = subject.Organization + " intermediate " + entry.ID
			}
		}
		plan.Intermediates = append(plan.Intermediates, intermediate)
	}
	return plan, nil
}

func (p planner) certificate(ctx context.Context, cfg config.CeremonyCertificate) (planned ceremony.PlannedCertificate, err error) {
	planned = ceremony.PlannedCertificate{
		Subject:   ceremony.Subject{CommonName: cfg.CommonName, Organization: cfg.Organization},
		Algorithm: cfg.Algorithm,
		NotBefore: cfg.NotBefore,
		NotAfter:  cfg.NotAfter,
	}
	if !cfg.Signer.IsZero() {
		planned.Signer, err = externalKey(ctx, p.ring, cfg.Signer, cmp.Or(cfg.Algorithm, ceremony.DefaultAlgorithm))
		return planned, keypath.Prefix(err, "signer")
	}
	planned.Password, err = readPassword(p.c, cfg.PasswordFile)
	return planned, err
}
