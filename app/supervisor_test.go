// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/server"
)

// READY=1 comes with the first answer, WATCHDOG=1 at half of the watchdog's time, and none while the
// process does not answer.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var sent []string
		var silent atomic.Bool
		silent.Store(true)
		s := Supervisor{Watchdog: 30 * time.Second, Notify: func(lines string) error {
			sent = append(sent, lines+" "+time.Since(start).String())
			return nil
		}}
		p := supervised{logger: slog.New(slog.DiscardHandler), alive: func() error {
			if silent.Load() {
				time.Sleep(answerLimit) // as a request to a process that hangs
				return os.ErrDeadlineExceeded
			}
			return nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.reportLife(ctx, p) }()
		time.Sleep(8 * time.Second) // in the second attempt
		silent.Store(false)
		time.Sleep(40 * time.Second)
		silent.Store(true)
		time.Sleep(time.Hour)
		cancel()
		<-done
		if found, expected := strings.Join(sent, ", "), "READY=1 14.2s, WATCHDOG=1 29.2s, WATCHDOG=1 44.2s"; found != expected {
			t.Errorf("found %s, expected %s", found, expected)
		}
	})
}

// Without a watchdog, nothing follows READY=1.
func TestReadyWithoutWatchdog(t *testing.T) {
	t.Parallel()
	var sent []string
	s := Supervisor{Notify: func(lines string) error { sent = append(sent, lines); return nil }}
	s.reportLife(t.Context(), supervised{logger: slog.New(slog.DiscardHandler), alive: answers(nil)})
	if !slices.Equal(sent, []string{"READY=1"}) {
		t.Errorf("sent %q", sent)
	}
}

// STATUS is sent when it changes, in one line that names checks and nothing of their errors.
func TestStatusLine(t *testing.T) {
	t.Parallel()
	failed := func(name string, critical bool) server.CheckState {
		return server.CheckState{Name: name, State: "failed", Critical: critical, Error: "secret\nof person@example.com", Detail: "d", Runbook: "docs/" + name + ".md"}
	}
	for expected, checks := range map[string][]server.CheckState{
		"ready": {{Name: "signer", State: "ok", Critical: true}},
		"ready; also failing: issuers (docs/issuers.md)":                              {failed("issuers", false)},
		"not ready: signer (docs/signer.md), clock (docs/clock.md)":                   {failed("signer", true), failed("clock", true)},
		"not ready: signer (docs/signer.md); also failing: issuers (docs/issuers.md)": {failed("issuers", false), failed("signer", true)},
	} {
		if found := describe(server.State{Checks: checks}); found != expected {
			t.Errorf("found %q, expected %q", found, expected)
		}
	}
}

// socketFile returns a listening socket as a service manager passes it.
func socketFile(t *testing.T, network, address, name string) *os.File {
	t.Helper()
	var file *os.File
	var err error
	if network == "unixgram" {
		c, errListen := net.ListenUnixgram(network, &net.UnixAddr{Net: network, Name: address})
		if errListen != nil {
			t.Fatal(errListen)
		}
		defer func() { _ = c.Close() }()
		file, err = c.File()
	} else {
		l, errListen := net.Listen(network, address)
		if errListen != nil {
			t.Fatal(errListen)
		}
		defer func() { _ = l.Close() }()
		file, err = l.(*net.TCPListener).File()
	}
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	return os.NewFile(uintptr(fd), name)
}

func TestSocketsOfTheServiceManager(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sockets [][3]string // network, address, name
		listen  config.Listen
		wrong   string // a part of the error; "" for none
		mistake bool   // with a place in the configuration
	}{
		"all three":           {[][3]string{{"tcp", "127.0.0.1:0", "http"}, {"tcp", "127.0.0.1:0", "grpc"}, {"tcp", "127.0.0.1:0", "ops"}}, config.Listen{HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:00", Ops: "localhost:0"}, "", false},
		"one, the others own": {[][3]string{{"tcp", "127.0.0.1:0", "http"}}, config.Listen{HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0", Ops: "localhost:0"}, "", false},
		"every interface":     {[][3]string{{"tcp", "0.0.0.0:0", "http"}}, config.Listen{HTTP: ":0", GRPC: ":0", Ops: "localhost:0"}, "", false},
		"unknown name":        {[][3]string{{"tcp", "127.0.0.1:0", "mayfly.socket"}}, config.Listen{HTTP: "127.0.0.1:0"}, `"mayfly.socket"`, false},
		"twice":               {[][3]string{{"tcp", "127.0.0.1:0", "http"}, {"tcp", "127.0.0.1:0", "http"}}, config.Listen{HTTP: "127.0.0.1:0"}, `"http"`, false},
		"datagrams":           {[][3]string{{"unixgram", "@" + t.Name(), "http"}}, config.Listen{HTTP: "127.0.0.1:0"}, "listens for connections", false},
		"another port":        {[][3]string{{"tcp", "127.0.0.1:0", "http"}}, config.Listen{HTTP: "127.0.0.1:1"}, "found 127.0.0.1:1", true},
		"another host":        {[][3]string{{"tcp", "0.0.0.0:0", "ops"}}, config.Listen{HTTP: "127.0.0.1:0", Ops: "127.0.0.1:0"}, "found 127.0.0.1:0", true},
		"one port for both":   {[][3]string{{"tcp", "127.0.0.1:0", "grpc"}}, config.Listen{HTTP: "127.0.0.1:0", GRPC: "127.0.0.1:0"}, "only the socket http", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var s Supervisor
			for _, socket := range c.sockets {
				s.Sockets = append(s.Sockets, socketFile(t, socket[0], socket[1], socket[2]))
			}
			a := &App{Config: &config.Server{Listen: c.listen}, options: Options{Supervisor: s}}
			l, err := a.Listen()
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) || errors.As(err, new(config.Mistakes)) != c.mistake {
					t.Fatalf("found %v, expected %q", err, c.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, listener := range []net.Listener{l.HTTP, l.GRPC, l.Ops} {
				if listener != nil {
					_ = listener.Close()
				}
			}
		})
	}
}
