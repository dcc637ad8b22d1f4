// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/suggest"
)

// The flags and arguments that many commands share: one name for one thing.

// addConfig adds --config, -c. Every command that reads a configuration file has it.
func addConfig(c *cobra.Command, file *string, usage string) {
	c.Flags().StringVarP(file, "config", "c", "", usage)
	_ = c.MarkFlagFilename("config", "yaml", "yml", "json") // it fails only without the flag
}

// completeFrom completes the value of a flag from the server's configuration, which --config names. It
// opens no key and uses no network.
func completeFrom(c *cobra.Command, flag string, values func(*config.Server) []string) {
	_ = c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, _ string) (found []cobra.Completion, _ cobra.ShellCompDirective) {
		if cfg, _, err := config.LoadServer(c.Flag("config").Value.String(), os.Environ()); err == nil {
			found = values(cfg)
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	})
}

// tokenVariable is also where sigstore's clients look for an ID token.
const tokenVariable = "SIGSTORE_ID_TOKEN"

// tokenFlags are the flags that name an ID token.
type tokenFlags struct{ file, valueOrFile string }

func (t *tokenFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&t.file, "token-file", "", "file with the ID token, - for standard input (default: the value of "+tokenVariable+")")
	c.Flags().StringVar(&t.valueOrFile, "identity-token", "", "as cosign has it: the file with the ID token, or the token itself, which other users then see in the list of processes")
	c.Flags().StringVar(&t.file, "token", "", "as --token-file")
	_ = c.Flags().MarkHidden("token")
}

// given reports whether a flag names a token.
func (t *tokenFlags) given() bool { return t.file+t.valueOrFile != "" }

// read returns the token that the flags name, or else that of the environment; "" for none.
func (t *tokenFlags) read(c *cobra.Command) (string, error) {
	name := t.file + t.valueOrFile
	switch {
	case t.file != "" && t.valueOrFile != "":
		return "", usageError{errors.New("--token-file and --identity-token exclude each other")}
	case name == "":
		return strings.TrimSpace(os.Getenv(tokenVariable)), nil
	case t.file == "" && isToken(name):
		return name, nil
	}
	data, err := readInput(c.InOrStdin(), name)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", fmt.Errorf("%s is empty; an ID token is expected", shown(name))
	}
	return token, nil
}

// isToken reports whether text is a JWT and not the name of a file: its header is a JSON object.
func isToken(text string) bool {
	return strings.HasPrefix(text, "eyJ") && strings.Count(text, ".") == 2
}

// checkArguments holds the arguments of a command against its Use, as in "add [ID]" or "inspect
// [FILE…]", and those of a command with others below it against their names.
func checkArguments(c *cobra.Command, args []string) error {
	words := strings.Fields(c.Use)[1:]
	least, most := 0, len(words)
	for _, word := range words {
		if !strings.HasPrefix(word, "[") {
			least++
		}
		if strings.Contains(word, "…") {
			most = math.MaxInt
		}
	}
	switch {
	case c.HasSubCommands() && len(args) > 0:
		var names []string
		for _, command := range c.Commands() {
			names = append(names, command.Name())
		}
		return usageError{fmt.Errorf("unknown command %q; see %s --help%s", args[0], c.CommandPath(), suggest.DidYouMean(args[0], names))}
	case len(args) < least || len(args) > most:
		found := cmp.Or(strings.Trim(fmt.Sprintf("%q", args), "[]"), "nothing")
		return usageError{fmt.Errorf("%s takes %s, found %s; see %[1]s --help", c.CommandPath(), cmp.Or(strings.Join(words, " "), "no argument"), found)}
	}
	return nil
}

// unknownFlag adds the flag or the value that was probably meant, and where help is. Where a command below c was
// misspelt, its flags are unknown too, and the name is the mistake.
func unknownFlag(c *cobra.Command, err error) error {
	if c.HasSubCommands() && c.Flags().NArg() > 0 {
		return checkArguments(c, c.Flags().Args())
	}
	invalid, number := new(pflag.InvalidValueError), new(strconv.NumError)
	if errors.As(err, &invalid) && errors.As(err, &number) {
		expected := cmp.Or(map[string]string{"ParseBool": "true or false"}[number.Func], "a whole number")
		err = fmt.Errorf("--%s: found %q, expected %s", invalid.GetFlag().Name, invalid.GetValue(), expected)
	}
	hint := ""
	if unknown := new(pflag.NotExistError); errors.As(err, &unknown) {
		var known []string
		c.Flags().VisitAll(func(f *pflag.Flag) {
			known = append(known, "--"+f.Name)
		})
		hint = suggest.DidYouMean("--"+unknown.GetSpecifiedName(), known)
	}
	return usageError{fmt.Errorf("%w; see %s --help%s", err, c.CommandPath(), hint)}
}
