// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/dev"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

func devCommand() *cobra.Command {
	var cfg dev.Config
	c := &cobra.Command{
		Use:   "dev",
		Short: "Run all services for keyless signing on this machine, for development",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg.LogOutput, cfg.Version = c.ErrOrStderr(), version()
			cfg.Note = func(note error) { printable.Fprintf(c.ErrOrStderr(), "note: %v\n", note) }
			world, err := dev.New(c.Context(), cfg)
			if errors.As(err, new(dev.ConfigError)) {
				return usageError{err}
			}
			if err != nil {
				return err
			}
			keys, warning := "Its keys are deleted when it stops.", world.Warning()
			if cfg.Dir != "" {
				keys = "Its keys are unprotected in " + cfg.Dir + "."
			}
			if warning == "" {
				warning = "Any client that reaches it can sign as any person. It listens on loopback only."
			}
			printable.Fprintf(c.ErrOrStderr(), "mayfly dev: a keyless world for development. THIS IS NO PRODUCTION.\n%s\n%s\n\n", warning, keys)
			if len(cfg.Fail) > 0 {
				printable.Fprintf(c.ErrOrStderr(), "These services fail, as --fail requests: %s.\n\n", strings.Join(cfg.Fail, ", "))
			}
			commands, err := world.Commands()
			if err != nil {
				return errors.Join(err, world.Close(c.Context()))
			}
			return world.Run(c.Context(), func() {
				fmt.Fprintf(c.OutOrStdout(), `ready: %[1]s

%[2]s
All this in a browser, and the newest certificates: %[1]s/dev/
Also there: %[1]s/trusted_root.json and %[1]s/signing_config.v0.2.json. Stop with Ctrl-C.
`, world.URL(), commands)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Dir, "dir", "", "directory that keeps the world between runs; new, empty, or made by mayfly dev (default: a temporary one)")
	f.StringVar(&cfg.Listen, "listen", dev.DefaultListen, "loopback address and port to listen on; port 0 is a free one; with --expose any address")
	f.StringVar(&cfg.Expose, "expose", "", "name or IP address by which other machines reach this world; any of them can then sign as any person in it")
	f.StringVar(&cfg.Issuers, "issuers", "", "an issuer file: its entries are added to the world's own ones, or replace them; read again when it changes")
	f.StringSliceVar(&cfg.Fail, "fail", nil, "services that fail, to test how clients handle it: "+strings.Join(dev.Failures(), ", ")+"; can be repeated")
	f.DurationVar(&cfg.CertificateLifetime, "certificate-lifetime", 10*time.Minute, "how long certificates are valid, from 1m to 60m")
	f.StringVar(&cfg.LogLevel, "log-level", "error", "what to log on standard error: debug, info, warn, error")
	return c
}
