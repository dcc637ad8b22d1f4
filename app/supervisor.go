// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/server"
)

// Supervisor is the service manager that started this process, such as systemd. The zero value is
// none.
type Supervisor struct {
	// Sockets are the listening sockets that it opened. The name of each states its use. The process
	// closes them, and the service manager keeps its own copies for the next process.
	Sockets []*os.File
	// Notify sends it lines of sd_notify(3); nil for none.
	Notify func(lines string) error
	// Watchdog is the time without WATCHDOG=1 after which it kills the process; 0 for never.
	Watchdog time.Duration
}

const (
	statusInterval = 5 * time.Second        // of STATUS
	startInterval  = 100 * time.Millisecond // between attempts to be ready
	answerLimit    = 7 * time.Second        // for the answer to a request of its own
)

// listeners returns the sockets by their names, out of names. After an error, the process must end.
func (s Supervisor) listeners(names ...string) (map[string]net.Listener, error) {
	found := map[string]net.Listener{}
	for _, file := range s.Sockets {
		name := file.Name()
		listener, err := net.FileListener(file) // with a descriptor of its own
		_ = file.Close()
		if err != nil || !slices.Contains([]string{"tcp", "unix"}, listener.Addr().Network()) || !slices.Contains(names, name) || found[name] != nil {
			return nil, fmt.Errorf("the service manager passed a socket with the name %q; expected at most one for each of %s, which listens for connections: see FileDescriptorName= and ListenStream= of its unit",
				name, strings.Join(names, ", "))
		}
		found[name] = listener
	}
	return found, nil
}

// listensOn reports whether l listens on the configured address.
func listensOn(l net.Listener, configured string) bool {
	bound, isTCP := l.Addr().(*net.TCPAddr)
	expected, err := net.ResolveTCPAddr("tcp", configured)
	if !isTCP || err != nil || expected.Port != 0 && expected.Port != bound.Port {
		return false
	}
	every := len(expected.IP) == 0 || expected.IP.IsUnspecified()
	return every && bound.IP.IsUnspecified() || expected.IP.Equal(bound.IP)
}

// supervised is what a service manager learns about a process.
type supervised struct {
	logger   *slog.Logger
	alive    func() error                 // returns an error, after answerLimit at the latest, if the process does not answer
	status   func(context.Context) string // one line, without secrets and names of callers
	shutdown time.Duration                // the longest time that an orderly shutdown takes
}

// run is the function run, and informs the service manager meanwhile: that the process is ready, once
// it answers; its state; that it is alive; and that it stops.
func (s Supervisor) run(ctx context.Context, p supervised, tasks []func(context.Context), front func(context.Context) error) error {
	if s.Notify == nil {
		return run(ctx, tasks, front)
	}
	stopping := sync.OnceFunc(func() {
		s.send(ctx, p, fmt.Sprintf("STOPPING=1\nEXTEND_TIMEOUT_USEC=%d", p.shutdown.Microseconds()))
	})
	defer stopping()
	defer context.AfterFunc(ctx, stopping)()
	tasks = append(slices.Clone(tasks), func(ctx context.Context) { s.reportLife(ctx, p) }, func(ctx context.Context) { s.reportState(ctx, p) })
	return run(ctx, tasks, front)
}

// reportLife sends READY=1 when the process answers for the first time, and then WATCHDOG=1 at half of
// the watchdog's time, as long as it answers.
func (s Supervisor) reportLife(ctx context.Context, p supervised) {
	next, interval := "READY=1", time.Duration(0)
	for next == "READY=1" || s.Watchdog > 0 {
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return
		}
		err := p.alive()
		switch {
		case err == nil:
			s.send(ctx, p, next)
			next, interval = "WATCHDOG=1", s.Watchdog/2
		case next == "READY=1":
			interval = startInterval
		default:
			p.logger.LogAttrs(ctx, slog.LevelError, "this process does not answer itself: the service manager restarts it if that lasts", slog.String("error", err.Error()))
			interval = s.Watchdog / 8
		}
	}
}

// reportState sends STATUS when the state changes.
func (s Supervisor) reportState(ctx context.Context, p supervised) {
	ticker := time.NewTicker(statusInterval)
	defer ticker.Stop()
	for last := ""; ; {
		if text := p.status(ctx); text != last {
			s.send(ctx, p, "STATUS="+text)
			last = text
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s Supervisor) send(ctx context.Context, p supervised, lines string) {
	if err := s.Notify(lines); err != nil {
		p.logger.LogAttrs(ctx, slog.LevelError, "informing the service manager at NOTIFY_SOCKET", slog.String("error", err.Error()))
	}
}

// describe returns the state in a line: first the checks that make the server unready.
func describe(state server.State) string {
	failing := map[bool][]string{}
	for _, c := range state.Checks {
		if c.Failed() {
			failing[c.Critical] = append(failing[c.Critical], c.Name+" ("+c.Runbook+")")
		}
	}
	text := "ready"
	if critical := failing[true]; critical != nil {
		text = "not ready: " + strings.Join(critical, ", ")
	}
	if others := failing[false]; others != nil {
		text += "; also failing: " + strings.Join(others, ", ")
	}
	return text
}

// answers returns a function that sends the process a request of its own at the ops listener, which has
// neither TLS nor clients that could fill it; for nil, one that does nothing.
func answers(ops net.Listener) func() error {
	client := &http.Client{Timeout: answerLimit, Transport: &http.Transport{DisableKeepAlives: true}} // through no proxy
	return func() error {
		if ops == nil {
			return nil
		}
		answer, err := client.Get("http://" + ops.Addr().String() + "/livez")
		if err != nil {
			return err
		}
		return answer.Body.Close()
	}
}
