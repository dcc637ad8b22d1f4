// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
)

func caInitCommand() *cobra.Command {
	var config ceremony.InitConfig
	var passwordFile, rootPasswordFile string
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a root and an intermediate with encrypted keys",
		Long: `Make a new CA in DIR, which must not exist or be empty: a root for ten years, an
intermediate for three that signs certificates, both with encrypted keys, and ca.yaml, the
CA set that lists them.

The root is needed again only to make the next intermediate: move DIR/root to a place that
is offline. Passwords are drawn at random unless a file gives them, and are never printed.`,
		Example: "  mayfly ca init ./ca\n  mayfly ca init --organization 'Example Corp' --algorithm ecdsa-p256 ./ca",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			config.Dir, config.Now = args[0], time.Now
			var err error
			if config.Password, err = readPassword(c, passwordFile); err != nil {
				return err
			}
			if config.RootPassword, err = readPassword(c, rootPasswordFile); err != nil {
				return err
			}
			result, err := ceremony.Init(config)
			if err != nil {
				return err
			}
			return printCA(c.OutOrStdout(), result)
		},
	}
	f := c.Flags()
	f.StringVar(&config.Organization, "organization", "", `the O of both certificates (default "mayfly")`)
	f.StringVar(&config.CommonName, "common-name", "", "what the CN of both begins with (default: the organization)")
	f.StringVar(&config.Algorithm, "algorithm", ceremony.DefaultAlgorithm, "of both keys: "+strings.Join(ceremony.Algorithms(), ", ")+"; ecdsa-p256 signs three times faster")
	f.StringVar(&passwordFile, "password-file", "", "file with the password for the intermediate's key")
	f.StringVar(&rootPasswordFile, "root-password-file", "", "file with the password for the root's key, which is then written nowhere")
	return c
}

// readPassword returns the content of a file without the newline at its end; nil for no
// file.
func readPassword(c *cobra.Command, name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	data, err := readInput(c.InOrStdin(), name)
	if err != nil {
		return nil, err
	}
	data = bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(data) == 0 {
		return nil, fmt.Errorf("%s holds no password", name)
	}
	return data, nil
}

func printCA(out io.Writer, r *ceremony.Result) error {
	_, err := fmt.Fprintf(out, `The CA stands in %[1]s. Authority %[2]s:
  %[3]s
  valid until %[4]s

Its root is in %[5]s: move that folder to a place that is offline.

To sign with it, write this in mayfly.yaml (paths are relative to that file):

ca: {set: %[6]s}

That set can rotate (mayfly ca add --help). One authority alone, which cannot:

ca:
  file: {chain: %[7]s, key: %[8]s, password_file: %[9]s}
`, filepath.Dir(r.SetFile), r.AuthorityID, r.Intermediate.Subject, r.Intermediate.NotAfter.UTC().Format(time.RFC3339), r.RootDir,
		r.SetFile, r.ChainFile, r.KeyFile, r.PasswordFile)
	return err
}
