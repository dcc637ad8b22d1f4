// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

func caCheckCommand() *cobra.Command {
	var flags setFlags
	c := &cobra.Command{
		Use:   "check",
		Short: "Load the set as a server does, and ask the logs whether they accept its roots",
		Long: `Load the CA set as a server does: every chain is checked, every key is opened and signs,
and an authority must be active now. With --config, each Certificate Transparency log is
also asked whether it accepts the root of every authority. The exit code is 1 if a server
would not load the set, or a log would refuse its certificates.`,
		Example: "  mayfly ca check --config mayfly.yaml\n  mayfly ca check --set ca",
		RunE: func(c *cobra.Command, _ []string) (err error) {
			cfg, err := flags.server()
			if err != nil {
				return err
			}
			now := time.Now()
			ring := keyring.New(keyring.Config{Socket: cfg.CA.SignerSocket})
			defer func() { err = errors.Join(err, ring.Close()) }()
			loaded, err := set.Load(c.Context(), cfg, now, set.Keys{Ring: ring})
			if err != nil {
				return err
			}
			keys{err: c.ErrOrStderr()}.warn(append(loaded.Warnings, departures(loaded, now)...)...)
			authority, err := loaded.Set.Active(now)
			if err != nil {
				return fmt.Errorf("%s: %w", loaded.Name, err)
			}
			if !flags.out.json() {
				printable.Fprintf(c.OutOrStdout(), "%s: generation %d is well; authority %s signs\n", loaded.Name, loaded.Set.Generation(), authority.ID())
			}
			logs := 0 // that accept its roots
			if flags.config != "" {
				logs = len(cfg.CT.Logs)
				if err := errors.Join(app.CheckLogRoots(c.Context(), cfg, loaded.Set, now)...); err != nil {
					return err
				}
			}
			switch {
			case flags.out.json():
				return printJSON(c.OutOrStdout(), map[string]any{"set": loaded.Name, "generation": loaded.Set.Generation(), "signs": authority.ID(), "logs": logs})
			case flags.config != "":
				printable.Fprintf(c.OutOrStdout(), "logs: %d accept its roots\n", logs)
			}
			return nil
		},
	}
	flags.readFlags(c)
	addOutput(c, &flags.out)
	return c
}

// departures reports where a chain differs from what mayfly itself would create, and which kinds of
// name it excludes. A server loads it nevertheless.
func departures(loaded *set.Loaded, now time.Time) (warnings []error) {
	for _, m := range loaded.Set.Members() {
		if unusable, err := m.Chain.Trial(now); err == nil {
			for _, kind := range ca.SANKinds() {
				if cause := unusable[kind]; cause != nil {
					warnings = append(warnings, fmt.Errorf("authority %s: no certificate with a %s verifies below its chain: %w", m.ID, kind, cause))
				}
			}
		}
		chain := m.Chain.Certificates
		if len(chain) < 2 {
			continue
		}
		for _, err := range []error{ceremony.Conform(chain[0], chain[1]), ceremony.Conform(chain[len(chain)-1], nil)} {
			if err != nil {
				warnings = append(warnings, fmt.Errorf("authority %s departs from the certificate specification: %w", m.ID, err))
			}
		}
	}
	return warnings
}
