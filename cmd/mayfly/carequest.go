// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/internal/app/keyring"
)

func caRequestCommand() *cobra.Command {
	var config ceremony.RequestConfig
	var passwordFile string
	var key signerFlag
	c := &cobra.Command{
		Use:   "request DIR",
		Short: "Make a key and a signing request for an intermediate, whose root is elsewhere",
		Long: `Make an encrypted key in DIR, which must not exist or be empty, and request.csr beside it.
Carry the request to where the root is, sign it there (mayfly ca sign-intermediate), bring
back chain.pem, and add it to the set (mayfly ca add --chain … --key …). The key never
leaves DIR.

With --signer the key is in a hardware module or at a key-management service, and DIR holds
the request alone; then mayfly ca add --chain … --signer ….`,
		Example: "  mayfly ca request --organization 'Example Corp' --common-name 'Example intermediate 2027-a' ca/2027-a",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			config.Dir = args[0]
			ctx, cancel := context.WithTimeout(c.Context(), commandTimeout)
			defer cancel()
			ring := keyring.New(keyring.Config{}) // the process ends soon, and with it what is opened
			if err := ceremony.CheckDir(config.Dir); err != nil {
				return err // before a key is made for nothing
			}
			if config.Signer, err = key.external(ctx, ring, config.Algorithm); err != nil {
				return err
			}
			if config.Password, err = readPassword(c, passwordFile); err != nil {
				return err
			}
			path, err := ceremony.NewRequest(config)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is to be signed where the root is: mayfly ca sign-intermediate --root DIR --csr request.csr --out chain.pem\n", path)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&config.Subject.Organization, "organization", "", "the O (demanded)")
	f.StringVar(&config.Subject.CommonName, "common-name", "", "the CN (demanded)")
	f.StringVar(&config.Algorithm, "algorithm", ceremony.DefaultAlgorithm, "of the key")
	key.add(f, "signer", "where the key is instead of a file")
	f.StringVar(&passwordFile, "password-file", "", "file with the password for the key (default: one is drawn)")
	return c
}
