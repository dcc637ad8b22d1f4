// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

func caRequestCommand() *cobra.Command {
	var config ceremony.RequestConfig
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
		RunE: func(c *cobra.Command, args []string) (err error) {
			config.Dir = args[0]
			if config.Signer, config.Password, err = key.parse(); err != nil {
				return err
			}
			if err := config.Check(); err != nil {
				return err
			}
			var path string
			err = withNewKeys(c, func() (err error) {
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
