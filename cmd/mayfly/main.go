// SPDX-License-Identifier: Apache-2.0

// Command mayfly is a keyless certificate authority and its tools. Each command is thin: flags, exit
// codes, messages.
package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/grpclog"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/internal/printable"
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

// run runs one command line, prints its error, and returns its exit code.
func run(ctx context.Context, args []string, std stdio) int {
	root := newRoot(std)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errStopped
	}
	if err != nil && !errors.As(err, new(app.Logged)) {
		printable.Fprintf(root.ErrOrStderr(), "mayfly: %v\n", err)
	}
	return exitCode(err)
}

// exitCode returns 0 for success, 1 where a command found a problem or was refused, 2 for a command
// line that is invalid, and 3 where a command could not run. docs/commands.md has the table.
func exitCode(err error) int {
	var decided coded
	code := grpcstatus.Code(err)
	switch {
	case err == nil:
		return 0
	case errors.As(err, new(usageError)):
		return 2
	case errors.As(err, &decided):
		return decided.code
	case errors.Is(err, fs.ErrExist): // a refusal to overwrite
		return 1
	// A file, an address or a server is not to be had, or a signal stopped the command. A mistake in
	// a configuration (config.Mistakes) wraps none of these, also where it names a file.
	case errors.As(err, new(syscall.Errno)), errors.As(err, new(*fs.PathError)), errors.As(err, new(*net.OpError)), errors.As(err, new(*url.Error)),
		code == codes.Unavailable, code == codes.DeadlineExceeded, errors.Is(err, context.Canceled):
		return 3
	default:
		return 1
	}
}

func newRoot(std stdio) *cobra.Command {
	root := &cobra.Command{
		Use:               "mayfly",
		Short:             "A keyless certificate authority",
		Version:           readBuild().text(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: checkRequired,
	}
	root.SetVersionTemplate("{{.Version}}")
	root.SetFlagErrorFunc(unknownFlag)
	root.SetIn(std.in)
	// Certificates, tokens and servers' answers contain untrusted text. Every command writes it to a
	// terminal through these two writers.
	root.SetOut(printable.NewWriter(std.out))
	root.SetErr(printable.NewWriter(std.err))
	root.AddCommand(serveCommand(std.hurry), requestCommand(), inspectCommand(), configCommand(), migrateCommand(), explainCommand(), caCommand(), signerCommand(), ctlogCommand(), auditCommand(),
		devCommand(), statusCommand(), tokenCommand(), trustedRootCommand(), signingConfigCommand(), versionCommand())
	completeTree(root)
	return root
}

// help has the help of the commands that need more than a line, by their names. In a file, the examples
// are below the line "Examples:".
//
//go:embed help
var help embed.FS

// completeTree adds what all commands have in common.
func completeTree(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		c.Args = checkArguments
		if text, err := help.ReadFile("help/" + strings.ReplaceAll(c.CommandPath(), " ", "-") + ".txt"); err == nil {
			long, example, _ := strings.Cut(strings.TrimSuffix(string(text), "\n"), "\n\nExamples:\n")
			c.Long, c.Example = long+c.Long, example
		}
		if c.HasSubCommands() && c.RunE == nil {
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
		if !strings.Contains(c.Use, " ") && c.ValidArgsFunction == nil {
			c.ValidArgsFunction = cobra.NoFileCompletions
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Use, c.Example = "help [COMMAND…]", "  mayfly help ca status"
			c.Args = func(_ *cobra.Command, args []string) error {
				found, rest, err := root.Find(args)
				if err == nil && len(rest) > 0 {
					err = checkArguments(found, rest)
				}
				return err
			}
		case "completion":
			c.Example = "  source <(mayfly completion bash)"
			for _, shell := range c.Commands() {
				shell.Example = "  mayfly completion " + shell.Name() + " > mayfly-completion"
			}
		}
	}
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

var errStopped = coded{errors.New("stopped by a signal"), 3}

// coded is an error whose exit code does not follow from what it wraps.
type coded struct {
	error
	code int
}

func (e coded) Unwrap() error { return e.error }
