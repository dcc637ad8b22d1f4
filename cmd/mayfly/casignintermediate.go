// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

func caSignIntermediateCommand() *cobra.Command {
	var config ceremony.SignRequestConfig
	var root rootFolder
	var csr, out string
	var form output
	c := &cobra.Command{
		Use:   "sign-intermediate",
		Short: "Sign the request of an intermediate with the root, offline",
		Long: `Sign a certificate signing request with the root: the request's key and subject count, and
everything else follows the certificate specification (path length 0, extended key usage
codeSigning, three years, never longer than the root). The certificate is checked before
the root signs it and after. No network is used.`,
		Example: "  mayfly ca sign-intermediate --root /media/usb/root --csr request.csr --out chain.pem",
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if root.dir == "" || csr == "" || out == "" {
				return usageError{errors.New("--root, --csr and --out are required; see mayfly ca sign-intermediate --help")}
			}
			if err := root.check(); err != nil {
				return usageError{err}
			}
			if config.Request, err = readInput(c.InOrStdin(), csr); err != nil {
				return err
			}
			if config.NotBefore.IsZero() {
				config.NotBefore = time.Now()
			}
			chain, intermediate, err := signRequest(c, root, config)
			if err != nil {
				return err
			}
			if err := files.Create(out, chain, 0o644); err != nil {
				return err
			}
			if form.json() {
				return printJSON(c.OutOrStdout(), map[string]any{"chain": out, "subject": intermediate.Subject.String(),
					"serial_number": fmt.Sprintf("%040x", intermediate.SerialNumber), "not_before": intermediate.NotBefore.UTC(), "not_after": intermediate.NotAfter.UTC()})
			}
			_, err = printable.Fprintf(c.OutOrStdout(), "%s\n  serial number %040x\n  valid from %s to %s\nThe chain, intermediate first and root last, is in %s.\n", intermediate.Subject.String(), intermediate.SerialNumber,
				intermediate.NotBefore.UTC().Format(time.RFC3339), intermediate.NotAfter.UTC().Format(time.RFC3339), out)
			return err
		},
	}
	addOutput(c, &form)
	f := c.Flags()
	f.StringVar(&root.dir, "root", "", "folder of the root: root.pem, and key.pem and pass, or signer.yaml (required)")
	f.StringVar(&root.passwordFile, "root-password-file", "", "file with the password of the root's key (default: pass in its folder)")
	f.StringVar(&csr, "csr", "", "the certificate signing request, PEM (required)")
	f.StringVar(&out, "out", "", "where the chain is written; nothing is ever overwritten (required)")
	f.StringVar(&config.Subject.CommonName, "common-name", "", "instead of the request's CN")
	f.StringVar(&config.Subject.Organization, "organization", "", "instead of the request's O")
	addTime(c, &config.NotBefore, "not-before", "beginning of its validity (default: now)")
	addTime(c, &config.NotAfter, "not-after", "end of its validity (default: three years, or the root's end)")
	return c
}

// signRequest signs with the root in a folder.
func signRequest(c *cobra.Command, root rootFolder, config ceremony.SignRequestConfig) (chain []byte, intermediate *x509.Certificate, err error) {
	if config.Parent, err = root.parent(); err != nil {
		return nil, nil, err
	}
	err = withKeys(c, keyring.New(keyring.Config{}), func(ctx context.Context, keys keys) (err error) {
		if err := root.open(ctx, keys, &config.Parent); err != nil {
			return err
		}
		chain, intermediate, err = ceremony.SignRequest(config)
		return err
	})
	return chain, intermediate, err
}
