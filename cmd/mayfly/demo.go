// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/internal/demo"
)

func demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show the main job on this machine, in one process",
		Long: `Start an OpenID provider, a Certificate Transparency log and a certificate authority on
free ports of 127.0.0.1, get certificates over REST and gRPC, verify them, show one, and
stop. Nothing is left behind. This is no production: the keys are made for it and thrown away.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return demo.Run(c.Context(), demo.Config{
				Out:     c.OutOrStdout(),
				Version: version(),
				Show: func(chain []byte) error {
					leaf, err := firstCertificate(bytes.TrimSpace(chain))
					if err != nil {
						return err
					}
					r, err := inspect(leaf)
					if err != nil {
						return err
					}
					return r.print(c.OutOrStdout())
				},
			})
		},
	}
}
