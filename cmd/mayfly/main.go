// SPDX-License-Identifier: Apache-2.0

// Command mayfly is a keyless certificate authority and its tools. Each command is in a file of its
// own and is thin: flags, exit codes, messages.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/grpclog"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/internal/suggest"
)

func main() {
	embedded.RouteTesseraLogs(app.NewCallerLogger(os.Stderr, slog.LevelWarn))
	// gRPC itself logs only that clients have disconnected; callers receive errors.
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	ctx, hurry := stopSignals()
	os.Exit(run(ctx, os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr, hurry: hurry}))
}

// stopSignals returns a context that the first SIGINT or SIGTERM cancels, and a channel that the
// second one closes. The third stops the process at once.
func stopSignals() (context.Context, <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	hurry := make(chan struct{})
	signals := make(chan os.Signal, 3)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals
		close(hurry)
		<-signals
		fmt.Fprintln(os.Stderr, "mayfly: stopped by the third signal; requests in flight were cut off")
		os.Exit(1)
	}()
	return ctx, hurry
}

// stdio is the input and output of a command, and the channel that shortens its shutdown.
type stdio struct {
	in       io.Reader
	out, err io.Writer
	hurry    <-chan struct{} // nil for never
}

// run runs one command line and returns its exit code: 0 for success, 1 for an error that it has
// printed, 2 for a command line that is invalid.
func run(ctx context.Context, args []string, std stdio) int {
	root := newRoot(std)
	// Certificates, tokens and servers' answers contain untrusted text. Every command writes it to a
	// terminal through these two writers.
	out, errOut := printable.NewWriter(std.out), printable.NewWriter(std.err)
	root.SetArgs(args)
	root.SetIn(std.in)
	root.SetOut(out)
	root.SetErr(errOut)
	if err := root.ExecuteContext(ctx); err != nil {
		printable.Fprintf(errOut, "mayfly: %v\n", err)
		if errors.As(err, new(usageError)) {
			return 2
		}
		return 1
	}
	return 0
}

func newRoot(std stdio) *cobra.Command {
	root := &cobra.Command{
		Use:   "mayfly",
		Short: "A keyless certificate authority",
		Long: `mayfly turns an OpenID Connect ID token and a proof of possession of a private key
into a ten-minute code-signing certificate that names the caller and was written to a
Certificate Transparency log before it existed.

Text of others, such as names in certificates and answers of servers, is printed with every
control, direction and invisible character escaped as \uXXXX.`,
		Example:           "  mayfly dev\n  mayfly serve --config mayfly.yaml",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		PersistentPreRunE: checkRequired,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			var names []string
			for _, command := range c.Commands() {
				names = append(names, command.Name())
			}
			return usageError{fmt.Errorf("unknown command %q; see mayfly --help%s", args[0], suggest.DidYouMean(args[0], names))}
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %s --help", err, c.CommandPath())}
	})
	root.AddCommand(serveCommand(std.hurry), requestCommand(), inspectCommand(), configCommand(), explainCommand(), caCommand(), signerCommand(), ctlogCommand(),
		devCommand(), tokenCommand(), trustedRootCommand(), signingConfigCommand(), versionCommand())
	return root
}

// required is the annotation of a command that lists its mandatory flags.
const required = "required flags"

// require makes flags mandatory.
func require(c *cobra.Command, flags ...string) {
	c.Annotations = map[string]string{required: strings.Join(flags, " ")}
}

// checkRequired refuses a command line in which a mandatory flag is absent or empty.
func checkRequired(c *cobra.Command, _ []string) error {
	var names []string
	missing := false
	for _, name := range strings.Fields(c.Annotations[required]) {
		names = append(names, "--"+name)
		missing = missing || c.Flag(name).Value.String() == ""
	}
	switch {
	case !missing:
		return nil
	case len(names) == 1:
		return usageError{fmt.Errorf("%s is required; see %s --help", names[0], c.CommandPath())}
	default:
		return usageError{fmt.Errorf("%s and %s are required; see %s --help", strings.Join(names[:len(names)-1], ", "), names[len(names)-1], c.CommandPath())}
	}
}

// usageError is an invalid command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }
