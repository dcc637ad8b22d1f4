// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
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
	"github.com/mayfly-ca/mayfly/internal/printable"
)

func caRequestCommand() *cobra.Command {
	var config ceremony.RequestConfig
	var key signerFlag
	c := &cobra.Command{
		Use:   "request DIR",
		Short: "Make a key and a signing request for an intermediate, whose root is elsewhere",
		RunE: func(c *cobra.Command, args []string) (err error) {
			config.Dir = args[0]
			if config.Signer, config.Password, err = key.parse(); err != nil {
				return err
			}
			if err := config.Check(); err != nil {
				return err
			}
			var path string
			err = withKeys(c, keyring.New(keyring.Config{}), func(context.Context, keys) (err error) {
				path, err = ceremony.NewRequest(config)
				return err
			}, &key)
			if err != nil {
				return err
			}
			_, err = printable.Fprintf(c.OutOrStdout(), "%s is to be signed where the root is: mayfly ca sign-intermediate --root DIR --csr request.csr --out chain.pem\n", path)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&config.Subject.Organization, "organization", "", "the O (required)")
	f.StringVar(&config.Subject.CommonName, "common-name", "", "the CN (required)")
	f.StringVar(&config.Algorithm, "algorithm", "", "of the key (default "+ceremony.DefaultAlgorithm+")")
	key.add(c, "signer", "where the key is instead of a file", "password-file", "file with the password for the key (default: one is drawn)")
	return c
}

func caSignIntermediateCommand() *cobra.Command {
	var config ceremony.SignRequestConfig
	var root rootFolder
	var csr, out string
	var form output
	c := &cobra.Command{
		Use:   "sign-intermediate",
		Short: "Sign the request of an intermediate with the root, offline",
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if err := root.check(); err != nil {
				return usageError{err}
			}
			if config.Request, err = readInput(c.InOrStdin(), csr); err != nil {
				return err
			}
			if config.NotBefore.IsZero() {
				config.NotBefore = time.Now()
			}
			if config.Parent, err = root.parent(); err != nil {
				return err
			}
			var chain []byte
			var intermediate *x509.Certificate
			err = withKeys(c, keyring.New(keyring.Config{}), func(ctx context.Context, keys keys) (err error) {
				if err = root.open(ctx, keys, &config.Parent); err == nil {
					chain, intermediate, err = ceremony.SignRequest(config)
				}
				return err
			})
			if err != nil {
				return err
			}
			if err := files.Create(out, chain, 0o644); err != nil {
				return err
			}
			subject, begin, end := printable.Line(intermediate.Subject.String()), intermediate.NotBefore.UTC(), intermediate.NotAfter.UTC()
			serial := fmt.Sprintf("%040x", intermediate.SerialNumber)
			asJSON := map[string]any{"chain": out, "subject": subject, "serial_number": serial, "not_before": begin, "not_after": end}
			return form.print(c, asJSON, fmt.Sprintf("%s\n  serial number %s\n  valid from %s to %s\nThe chain, intermediate first and root last, is in %s.\n",
				subject, serial, begin.Format(time.RFC3339), end.Format(time.RFC3339), out))
		},
	}
	addOutput(c, &form)
	f := c.Flags()
	root.add(c, "folder of the root (required)")
	require(c, "root", "csr", "out")
	f.StringVar(&csr, "csr", "", "the certificate signing request, PEM (required)")
	f.StringVar(&out, "out", "", "where the chain is written; nothing is ever overwritten (required)")
	f.StringVar(&config.Subject.CommonName, "common-name", "", "instead of the request's CN")
	f.StringVar(&config.Subject.Organization, "organization", "", "instead of the request's O")
	addTime(c, &config.NotBefore, "not-before", "beginning of its validity (default: now)")
	addTime(c, &config.NotAfter, "not-after", "end of its validity (default: three years, or the root's end)")
	return c
}

func caCeremonyCommand() *cobra.Command {
	var planFile, out string
	c := &cobra.Command{
		Use:   "ceremony",
		Short: "Make an offline root and intermediates from one file, with a transcript",
		RunE: func(c *cobra.Command, _ []string) (err error) {
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
	require(c, "plan", "out")
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
	if p.plan.Parent != nil {
		organization = organizationOf(p.plan.Parent.Chain[0])
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
			intermediate.Subject = withDefaults(intermediate.Subject, organization, intermediate.ID)
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
