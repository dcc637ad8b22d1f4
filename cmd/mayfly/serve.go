// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app"
)

func serveCommand(hurry <-chan struct{}) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the certificate authority",
		Long: `Run the certificate authority until SIGINT or SIGTERM. Readiness then fails, and requests are
served on for shutdown.grace. After that no new ones are accepted, those in flight get at
most shutdown.drain, and the server stops. A second signal skips the rest of the grace, a
third stops the server at once.

The configuration file states the addresses, the trusted issuers, the CA's keys and the logs;
docs/configuration.md describes each key. Changed files are loaded without a signal, and SIGHUP
is ignored. An environment variable can set a scalar key, as in
MAYFLY_LISTEN_HTTP=127.0.0.1:5555.`,
		Example: "  mayfly serve --config mayfly.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			signal.Ignore(syscall.SIGHUP) // SIGHUP asks some servers to reload files; it must not stop this one
			collectLess()
			return app.Serve(c.Context(), app.Options{
				ConfigFile: file,
				Environ:    os.Environ(),
				LogOutput:  c.ErrOrStderr(),
				Version:    version(),
				Hurry:      hurry,
			})
		},
	}
	addConfig(c, &file, "the server's configuration file, YAML (required)")
	require(c, "config")
	return c
}

// gcPercent lets the heap grow to five times the live memory before a collection. A server has
// little live memory (about 10 MiB). Under load, Go's default would collect it dozens of times a
// second, for an eighth of all CPU time. With gcPercent it still stays below 100 MiB.
const gcPercent = 400

// memoryLimit is the size of the process above which memory is collected more often than gcPercent
// requires: memory that an attack keeps alive must not be multiplied by five.
const memoryLimit = 192 << 20

// collectLess sets gcPercent and memoryLimit, unless the operator has set GOGC or GOMEMLIMIT.
func collectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}
