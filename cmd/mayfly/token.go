// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mayfly-ca/mayfly/dev"
	"github.com/mayfly-ca/mayfly/internal/files"
)

func tokenCommand() *cobra.Command {
	var world, as string
	var claims []string
	kinds := dev.NewKinds()
	c := &cobra.Command{
		Use:   "token",
		Short: "Get an ID token from a running mayfly dev",
		Long:  "\n\n" + kinds.Help(), // below the text of its file
		RunE: func(c *cobra.Command, _ []string) error {
			query := url.Values{"claim": claims}
			var err error
			c.Flags().Visit(func(f *pflag.Flag) {
				switch {
				case f.Hidden && as == "":
					err = fmt.Errorf("--%s is a parameter of a kind of identity: name the kind with --as; mayfly token --help lists them", f.Name)
				case f.Name == "as":
					query.Set(f.Name, as)
				case f.Hidden, f.Name == "email" && f.Value.String() != "":
					query.Set(f.Name, f.Value.String())
				}
			})
			if err != nil {
				return usageError{err}
			}
			token, err := fetch(c.Context(), world, "/dev/token", query, "only mayfly dev gives tokens away; name its URL, without a path, with --url")
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s\n", token)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&world, "url", "http://"+dev.DefaultListen, "the running mayfly dev")
	f.String("email", "", "who to be (default: "+dev.DefaultEmail+", unless --claim sub=… names a subject)")
	// An array, not a slice: values may contain commas.
	f.StringArrayVar(&claims, "claim", nil, "a claim, as name=value; can be repeated")
	var names []string
	for _, kind := range kinds {
		names = append(names, kind.Name)
		for _, p := range kind.Parameters {
			if f.Lookup(p.Name) == nil {
				f.String(p.Name, "", p.Usage)
				_ = f.MarkHidden(p.Name) // the list of kinds has it
			}
		}
	}
	f.Func("as", "a `kind` of identity, listed above; its parameters are flags too", func(name string) error {
		kind, err := kinds.Find(name)
		as = kind.Name
		return err
	})
	_ = c.RegisterFlagCompletionFunc("as", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// unheard returns the error of a request to a URL, and what to do where nothing listens there.
func unheard(err error, url string) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return coded{fmt.Errorf("nothing listens at %s: start mayfly dev or mayfly serve there, or name the running one with --url", url), 3}
	}
	return err
}

// fetch gets a document from a running instance. If there is none at that path, the error ends in
// absent.
func fetch(ctx context.Context, base, path string, query url.Values, absent string) ([]byte, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usageError{fmt.Errorf("--url is %q; it looks like http://%s", base, dev.DefaultListen)}
	}
	u.Path, u.RawQuery = strings.TrimRight(u.Path, "/")+path, query.Encode()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, unheard(err, base)
	}
	defer response.Body.Close()
	body, err := files.ReadAll(response.Body, 4<<20)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the answer of %s: %w", base, err)
	case response.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%s has nothing at %s: %s", base, path, absent)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers %s: %s", base, response.Status, strings.TrimSpace(string(body[:min(len(body), 500)])))
	}
	return body, nil
}
