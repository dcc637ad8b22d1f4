// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"os/user"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

func serveCommand(hurry <-chan struct{}) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the certificate authority",
		RunE: func(c *cobra.Command, _ []string) error {
			signal.Ignore(syscall.SIGHUP) // SIGHUP asks some servers to reload files; it must not stop this one
			collectLess()
			supervisor, err := startedBy()
			if err != nil {
				return err
			}
			return app.Serve(c.Context(), app.Options{
				Supervisor: supervisor,
				ConfigFile: file,
				Environ:    os.Environ(),
				LogOutput:  c.ErrOrStderr(),
				LibraryLog: embedded.RouteTesseraLogs,
				Version:    version(),
				Hurry:      hurry,
				Audited:    runMore,
			})
		},
	}
	addConfig(c, &file, "the server's configuration file, YAML (required)")
	require(c, "config")
	return c
}

// gcPercent lets the heap grow to 4.5 times the live memory before a collection. A server has
// little live memory (about 10 MiB). Under load, Go's default would collect it dozens of times a
// second, for an eighth of all CPU time. With gcPercent it still stays below 100 MiB.
const gcPercent = 350

// memoryLimit is the size of the process above which memory is collected more often than gcPercent
// requires: memory that an attack keeps alive must not be multiplied by 4.5.
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

// runMore lets one more thread run Go code, unless the operator has set GOMAXPROCS. The thread that syncs the audit
// log waits for the disk, and the runtime takes some time to give its turn to another: with two CPUs that costs a
// twentieth of the throughput. The runtime does not follow changes of the CPU limit of a container once a program
// has set a number of threads, so runMore does, until the process ends.
func runMore() {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	oneMore()
	go func() {
		for range time.Tick(limitInterval) {
			oneMore()
		}
	}()
}

// limitInterval is how often runMore looks at the CPU limit; the runtime does each second at most, by itself.
const limitInterval = 30 * time.Second

// oneMore lets one more thread run Go code than the runtime would by itself.
func oneMore() {
	runtime.SetDefaultGOMAXPROCS()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
}

// startedBy returns the service manager that started this process: sd_listen_fds(3), sd_notify(3) and
// sd_watchdog_enabled(3).
func startedBy() (app.Supervisor, error) {
	watchdog, err := daemon.SdWatchdogEnabled(true)
	if err != nil {
		return app.Supervisor{}, fmt.Errorf("reading what the service manager has set: %w", err)
	}
	s := app.Supervisor{Sockets: activation.Files(true), Watchdog: watchdog}
	if os.Getenv("NOTIFY_SOCKET") != "" {
		s.Notify = func(lines string) error {
			_, err := daemon.SdNotify(false, lines)
			return err
		}
	}
	return s, nil
}

func signerCommand() *cobra.Command {
	var options app.SignerOptions
	var users []string
	c := &cobra.Command{
		Use:   "signer",
		Short: "Hold the keys of a CA set in a process of their own, and sign for a server of this machine",
		RunE: func(c *cobra.Command, _ []string) (err error) {
			if options.AllowUIDs, err = userIDs(users); err != nil {
				return err
			}
			if err := new(slog.Level).UnmarshalText([]byte(options.Log.Level)); err != nil || options.Log.Format != "json" && options.Log.Format != "text" {
				return usageError{errors.New("--log-level is debug, info, warn or error, and --log-format json or text")}
			}
			signal.Ignore(syscall.SIGHUP) // as in mayfly serve
			collectLess()
			options.LogOutput, options.Version = c.ErrOrStderr(), version()
			if options.Supervisor, err = startedBy(); err != nil {
				return err
			}
			options.Set = setFile(options.Set)
			return app.Sign(c.Context(), options)
		},
	}
	require(c, "set", "socket")
	f := c.Flags()
	f.StringVar(&options.Set, "set", "", "the CA set: ca.yaml, or the folder that holds it (required)")
	f.StringVar(&options.Socket, "socket", "", "the Unix socket to make (required)")
	f.StringArrayVar(&users, "allow-user", nil, "a user, by name or number, who may ask; repeat it for more (default: the user that this runs as)")
	f.StringVar(&options.Ops, "ops", "", "address of metrics and readiness, host:port (default: none)")
	f.BoolVar(&options.WithoutCT, "without-ct", false, "also sign certificates that no log knows, for a server with ct.disabled")
	f.StringVar(&options.Log.Format, "log-format", "json", "json or text")
	f.StringVar(&options.Log.Level, "log-level", "info", "debug, info, warn or error")
	return c
}

// userIDs returns the IDs of users, each given by name or by number.
func userIDs(users []string) (ids []uint32, err error) {
	for _, name := range users {
		id, err := strconv.ParseUint(name, 10, 32)
		if u, errUser := user.Lookup(name); err != nil && errUser == nil {
			id, err = strconv.ParseUint(u.Uid, 10, 32)
		}
		if err != nil {
			return nil, fmt.Errorf("--allow-user %s: this machine has no such user", name)
		}
		ids = append(ids, uint32(id))
	}
	return ids, nil
}
