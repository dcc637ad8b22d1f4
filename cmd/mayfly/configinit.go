// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/internal/suggest"
)

func configInitCommand() *cobra.Command {
	var file string
	known, err := config.Providers()
	c := &cobra.Command{
		Use:       "init [PROVIDER…]",
		Short:     "Write an issuer file that trusts the providers that you name",
		ValidArgs: slices.Sorted(maps.Keys(known)),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case err != nil:
				return err
			case len(args) == 0:
				return listProviders(c.OutOrStdout(), known)
			}
			chosen, values, err := chooseProviders(c, known, slices.Compact(slices.Sorted(slices.Values(args))))
			if err != nil {
				return usageError{err}
			}
			text, err := config.InitialIssuers(chosen, values)
			if err != nil || file == "" {
				fmt.Fprint(c.OutOrStdout(), text)
				return err
			}
			if err := files.Create(file, []byte(text), 0o644); err != nil {
				return fmt.Errorf("writing the issuer file, which must be new: %w", err)
			}
			printable.Fprintf(c.ErrOrStderr(), "%s is written; check it with mayfly config check %[1]s\n", file)
			return nil
		},
	}
	c.Flags().StringVar(&file, "file", "", "write a new file and not to standard output")
	for _, name := range c.ValidArgs {
		for _, parameter := range known[name].Parameters {
			c.Flags().String(name+"."+parameter.Name, "", parameter.About)
			_ = c.Flags().MarkHidden(name + "." + parameter.Name) // it fails only without the flag
			if flag := c.Flag(parameter.Name); flag == nil {
				c.Flags().String(parameter.Name, "", "for "+name)
			} else {
				flag.Usage += ", " + name
			}
		}
	}
	return c
}

// chooseProviders returns the providers of those names, and their parameters as flags set them.
func chooseProviders(c *cobra.Command, known map[string]*config.Provider, names []string) ([]*config.Provider, map[string]map[string]string, error) {
	var chosen []*config.Provider
	var wrong []error
	values, users := map[string]map[string]string{}, map[string][]string{}
	for _, name := range names {
		p := known[name]
		if p == nil {
			hint := suggest.DidYouMean(name, c.ValidArgs)
			return nil, nil, fmt.Errorf("there is no provider %q%s; mayfly has %s", name, hint, strings.Join(c.ValidArgs, ", "))
		}
		chosen, values[name] = append(chosen, p), map[string]string{}
		for _, parameter := range p.Parameters {
			value, own := parameter.Default, name+"."+parameter.Name
			for _, flag := range []string{parameter.Name, own} {
				if c.Flag(flag).Changed {
					value = c.Flag(flag).Value.String()
					users[flag] = append(users[flag], own)
				}
			}
			if err := parameter.Check(value); err != nil {
				wrong = append(wrong, fmt.Errorf("--%s (or --%s): %w", parameter.Name, own, err))
			}
			values[name][parameter.Name] = value
		}
	}
	c.Flags().Visit(func(f *pflag.Flag) {
		switch alone := f.Name == "url" || f.Name == "client-id"; {
		case f.Name != "file" && len(users[f.Name]) == 0:
			wrong = append(wrong, fmt.Errorf("--%s is not for %s; mayfly config init lists the flags", f.Name, strings.Join(names, ", ")))
		case alone && len(users[f.Name]) > 1:
			wrong = append(wrong, fmt.Errorf("--%s is for one provider, and several have it; write --%s", f.Name, strings.Join(users[f.Name], " or --")))
		}
	})
	return chosen, values, errors.Join(wrong...)
}

// listProviders prints the providers and their flags.
func listProviders(out io.Writer, known map[string]*config.Provider) error {
	t := newTable(out)
	for _, name := range slices.Sorted(maps.Keys(known)) {
		t.row(name, known[name].Title)
		for _, parameter := range known[name].Parameters {
			t.row("  --"+parameter.Name, parameter.Expected())
		}
	}
	return t.Flush()
}
