// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/test/testprocess"
)

const (
	// roleVariable, if it is set, makes this binary run a command of mayfly in a process of its own, with
	// the race detector and with a clock that the test sets.
	roleVariable = "MAYFLY_CHAOS_ROLE"
	// fullVariable selects the full form; make chaos sets it.
	fullVariable = "MAYFLY_CHAOS"
)

// full reports whether the full form runs, whose processes run the real binary.
func full() bool { return os.Getenv(fullVariable) != "" }

// TestMain plays the role that the environment names, or runs the tests.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := play(role, os.Args[1:]); err != nil {
			os.Exit(1) // the error is in the log
		}
		os.Exit(0)
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		_ = os.Unsetenv(name) // every process is on this machine
	}
	flag.Parse()
	if !full() { // the short form mostly waits
		_ = flag.Set("test.parallel", "32")
	}
	embedded.RouteTesseraLogs(slog.New(slog.DiscardHandler))
	code := m.Run()
	if full() {
		printTable(os.Stdout)
	}
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// play runs mayfly serve FILE, with a clock that the test sets, or mayfly signer SET SOCKET, until a signal.
func play(role string, args []string) error {
	if role == "signer" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		return app.Sign(ctx, app.SignerOptions{Set: args[0], Socket: args[1], LogOutput: os.Stderr, Log: config.Log{Format: "text", Level: "error"}})
	}
	return testprocess.Serve(args[0])
}

// binary builds mayfly once; MAYFLY_BINARY names another one, to compare.
var binary = sync.OnceValues(func() (path string, err error) {
	if built, err = os.MkdirTemp("", "mayfly-chaos-"); err != nil {
		return "", err
	}
	return testprocess.Binary(built)
})

// built is the folder of the binary that was built.
var built string

// process is one process of mayfly.
type process struct {
	*testprocess.Process
	output *testprocess.Tail
}

// command returns the command of a role, in the test binary where own is set.
func command(t testing.TB, own bool, role string, args ...string) *exec.Cmd {
	t.Helper()
	var cmd *exec.Cmd
	if own {
		cmd = exec.Command(os.Args[0], args...)
		cmd.Env = []string{roleVariable + "=" + role, "GORACE=atexit_sleep_ms=0 halt_on_error=1"}
	} else {
		options := map[string][]string{"serve": {"--config"}, "signer": {"--set", "--socket"}}[role]
		cmd = exec.Command(must(binary())(t), role)
		for i, arg := range args {
			cmd.Args = append(cmd.Args, options[i], arg)
		}
	}
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"), "HOME=/nonexistent")
	return cmd
}

// start starts a process until the test ends.
func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	output := testprocess.NewTail(8 << 10)
	cmd.Stdout, cmd.Stderr = output, output
	return &process{testprocess.Start(t, cmd), output}
}

// clock sets how far the clock of the process is ahead of the time.
func (p *process) clock(ahead time.Duration) { _ = p.Ahead(ahead) } // fails only if it has stopped

func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
