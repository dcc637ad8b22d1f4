// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	statusInterval = 5 * time.Second        // of STATUS, and the longest time between two runs of the checks
	startInterval  = 100 * time.Millisecond // between attempts to be ready
	retryInterval  = time.Second            // after a failed attempt of the watchdog
)

// listeners returns the sockets by their names, out of names.
func (s Supervisor) listeners(names ...string) (map[string]net.Listener, error) {
	found := map[string]net.Listener{}
	var errs []error
	for _, file := range s.Sockets {
		listener, err := net.FileListener(file) // with a descriptor of its own
		errs = append(errs, file.Close())
		switch name := file.Name(); {
		case err != nil || listener.Addr().Network() != "tcp" && listener.Addr().Network() != "unix":
			errs = append(errs, fmt.Errorf("the service manager passed the socket %q, which does not listen for connections; expected ListenStream= in its unit", name))
		case !slices.Contains(names, name):
			errs = append(errs, fmt.Errorf("the service manager passed a socket with the name %q; expected %s: set FileDescriptorName= in its unit", name, strings.Join(names, " or ")))
		case found[name] != nil:
			errs = append(errs, fmt.Errorf("the service manager passed two sockets with the name %q; expected one: [::]:PORT with BindIPv6Only=both is every address of IPv4 too", name))
		default:
			found[name] = listener
			continue
		}
		if listener != nil {
			errs = append(errs, listener.Close())
		}
	}
	err := errors.Join(errs...)
	if err != nil {
		for _, listener := range found {
			err = errors.Join(err, listener.Close())
		}
	}
	return found, err
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
	logger *slog.Logger
	// alive returns an error if the process does not answer.
	alive func(context.Context) error
	// status describes the state in one line, without secrets and names of callers.
	status func(context.Context) string
	// shutdown is the longest time that an orderly shutdown takes.
	shutdown time.Duration
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
	patience := retryInterval
	if s.Watchdog > 0 {
		patience = s.Watchdog / 4
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ready := false; !ready || s.Watchdog > 0; {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		attempt, cancel := context.WithTimeout(ctx, patience)
		err := p.alive(attempt)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !ready:
			timer.Reset(startInterval)
		case err != nil:
			p.logger.LogAttrs(ctx, slog.LevelError, "this process does not answer itself: the service manager restarts it if that lasts", slog.String("error", err.Error()))
			timer.Reset(min(retryInterval, patience))
		case !ready:
			ready = true
			s.send(ctx, p, "READY=1")
			timer.Reset(s.Watchdog / 2)
		default:
			s.send(ctx, p, "WATCHDOG=1")
			timer.Reset(s.Watchdog / 2)
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

// supervised returns what a service manager learns about the server.
func (a *App) supervised(listeners server.Listeners) supervised {
	return supervised{
		logger: a.logger, alive: answers(listeners.Ops),
		status:   func(ctx context.Context) string { return describe(a.server.State(ctx)) },
		shutdown: a.Config.Shutdown.Grace + a.Config.Shutdown.Drain + shutdownTimeout,
	}
}

// describe returns the state in a line: first the checks that make the server unready.
func describe(state server.State) string {
	var critical, others []string
	for _, c := range state.Checks {
		switch {
		case c.Failed() && c.Critical:
			critical = append(critical, c.Name+" ("+c.Runbook+")")
		case c.Failed():
			others = append(others, c.Name+" ("+c.Runbook+")")
		}
	}
	text := "ready"
	if len(critical) > 0 {
		text = "not ready: " + strings.Join(critical, ", ")
	}
	if len(others) > 0 {
		text += "; also failing: " + strings.Join(others, ", ")
	}
	return text
}

// answers returns a function that sends a request to the process itself at the ops listener, which has
// neither TLS nor clients that could fill it; nil for no listener.
func answers(ops net.Listener) func(context.Context) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // through no proxy
	return func(ctx context.Context) error {
		if ops == nil {
			return nil
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ops.Addr().String()+"/livez", nil)
		if err != nil {
			return err
		}
		answer, err := client.Do(r)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<10))
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", r.URL, answer.Status)
		}
		return nil
	}
}
