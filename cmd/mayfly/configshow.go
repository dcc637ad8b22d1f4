// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"slices"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/wildcard"
)

func configShowCommand() *cobra.Command {
	var file, key string
	var out output
	c := &cobra.Command{
		Use:   "show",
		Short: "Print each key of a server configuration with its value and where that is from",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, _, err := config.LoadServer(file, os.Environ())
			if err != nil {
				return err
			}
			settings := slices.DeleteFunc(cfg.Settings(), func(s config.Setting) bool { return key != "" && !wildcard.Match(key, s.Key) })
			if out.json() {
				return printJSON(c.OutOrStdout(), settings)
			}
			w := newTable(c.OutOrStdout())
			for _, s := range settings {
				var value any // without YAML's quotes
				if err := yaml.Unmarshal([]byte(s.Value), &value); err != nil {
					return err
				}
				switch {
				case key == "":
					w.row(s.Key, s.Value, s.Source)
				case value != nil:
					w.row(value)
				}
			}
			return w.Flush()
		},
	}
	addConfig(c, &file, "the server's configuration file (required)")
	c.Flags().StringVar(&key, "key", "", "print only the values of this key, one in a line; a * stands for any text, as in ct.logs.*.embedded.dir")
	addOutput(c, &out)
	require(c, "config")
	return c
}
