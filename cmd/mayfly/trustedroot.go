// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/trustroot"
)

func trustedRootCommand() *cobra.Command {
	return documentCommand(&cobra.Command{
		Use:   "trusted-root",
		Short: "Print trusted_root.json, what verifiers trust",
	}, trustroot.TrustedRootName, trustroot.Instance.TrustedRoot)
}

func signingConfigCommand() *cobra.Command {
	return documentCommand(&cobra.Command{
		Use:   "signing-config",
		Short: "Print signing_config.v0.2.json, the services for signers",
	}, trustroot.SigningConfigName, trustroot.Instance.SigningConfig)
}

// documentCommand completes a command that prints one of the two documents.
func documentCommand(c *cobra.Command, name string, render func(trustroot.Instance) ([]byte, error)) *cobra.Command {
	var configFile, running string
	c.RunE = func(c *cobra.Command, _ []string) error {
		if (configFile == "") == (running == "") {
			return usageError{errors.New("exactly one of --config and --url is required; see " + c.CommandPath() + " --help")}
		}
		var document []byte
		var err error
		if running != "" {
			document, err = fetch(c.Context(), running, "/"+name, nil, "a server without public_url in its configuration cannot say where it is")
		} else {
			var instance trustroot.Instance
			if instance, err = app.LoadInstance(app.Options{ConfigFile: configFile, Environ: os.Environ()}); err == nil {
				document, err = render(instance)
			}
		}
		if err != nil {
			return err
		}
		_, err = c.OutOrStdout().Write(document)
		return err
	}
	addConfig(c, &configFile, "the server's configuration file")
	c.Flags().StringVar(&running, "url", "", "a running instance, as in https://ca.example")
	return c
}
