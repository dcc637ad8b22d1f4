// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
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
		Long: `Run everything that keyless signing needs in one process, until it is told to stop: an
OpenID provider with a sign-in page, the CA, a Certificate Transparency log, a timestamp
authority, a Rekor log, and a TUF mirror by which clients find them. An unmodified cosign
signs and verifies in it after the one line cosign initialize, which is printed.

This is no production: the sign-in believes everybody, so it listens on loopback addresses
alone. Keys are made for each run and thrown away, unless --dir keeps them.`,
		Example: "  mayfly dev\n  mayfly dev --dir ./world --listen 127.0.0.1:7777\n  mayfly dev --issuers issuers.yaml\n  mayfly dev --fail ct,tsa",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := dev.CheckFailures(cfg.Fail); err != nil {
				return usageError{fmt.Errorf("--fail: %w", err)}
			}
			cfg.LogOutput, cfg.Version = c.ErrOrStderr(), version()
			cfg.Note = func(text string) { printable.Fprintf(c.ErrOrStderr(), "note: %s\n", text) }
			world, err := dev.New(c.Context(), cfg)
			if err != nil {
				return err
			}
			printBanner(c.ErrOrStderr(), cfg.Dir)
			if len(cfg.Fail) > 0 {
				printable.Fprintf(c.ErrOrStderr(), "These services fail, as --fail requests: %s.\n\n", strings.Join(cfg.Fail, ", "))
			}
			root, err := world.TUFRoot()
			if err != nil {
				return errors.Join(err, world.Close(c.Context()))
			}
			return world.Run(c.Context(), func() { printWorld(c.OutOrStdout(), world, sha256.Sum256(root)) })
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Dir, "dir", "", "directory that keeps the world between runs; new, empty, or made by mayfly dev (default: a temporary one)")
	f.StringVar(&cfg.Listen, "listen", dev.DefaultListen, "loopback address and port to listen on; port 0 is a free one")
	f.StringVar(&cfg.Issuers, "issuers", "", "an issuer file: its entries are added to the world's own ones, or replace them; read again when it changes")
	f.StringSliceVar(&cfg.Fail, "fail", nil, "services that fail, to test how clients handle it: "+strings.Join(dev.Failures(), ", ")+"; can be repeated")
	f.DurationVar(&cfg.CertificateLifetime, "certificate-lifetime", 10*time.Minute, "how long certificates are good, from 1m to 60m")
	f.StringVar(&cfg.LogLevel, "log-level", "error", "what to log on standard error: debug, info, warn, error")
	return c
}

func printBanner(out io.Writer, dir string) {
	keys := "Its keys are thrown away when it stops."
	if dir != "" {
		keys = "Its keys lie unprotected in " + dir + "."
	}
	printable.Fprintf(out, `mayfly dev: a keyless world for development. THIS IS NO PRODUCTION.
Whoever can reach it can sign as anybody. It listens on loopback only. %s

`, keys)
}

// printWorld prints that the world is ready, and the commands to paste. Without the root's
// checksum, cosign warns.
func printWorld(out io.Writer, w *dev.World, root [sha256.Size]byte) {
	printable.Fprintf(out, `ready: %[1]s

Paste into another terminal, for cosign 3. Once (a bare "cosign initialize" leads back to the public instance):

  cosign initialize --mirror %[2]s --root %[2]s/root.json --root-checksum %[6]x

A token for a script; without it, cosign opens a browser, where you type who to be:

  export SIGSTORE_ID_TOKEN=$(curl -sS '%[3]s?email=%[4]s')

Sign and verify a file:

  echo hello > hello.txt
  cosign sign-blob -y --bundle hello.sigstore.json hello.txt
  cosign verify-blob --bundle hello.sigstore.json --certificate-identity %[4]s --certificate-oidc-issuer %[5]s hello.txt

Sign and verify an image that you may push to, by its digest, after IMAGE=registry.example/name@sha256:…

  cosign sign -y $IMAGE
  cosign verify --certificate-identity %[4]s --certificate-oidc-issuer %[5]s $IMAGE

Also there: %[1]s/trusted_root.json and %[1]s/signing_config.v0.2.json. Stop with Ctrl-C.
`, w.URL(), w.TUFMirror(), w.TokenURL(), dev.DefaultEmail, w.IssuerURL(), root)
}
