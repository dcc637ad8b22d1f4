// SPDX-License-Identifier: Apache-2.0

// Package chaos gives mayfly serve, in a process of its own and under load, each fault that its
// surroundings can have, and judges every answer. `make chaos` runs it and prints a table; without
// MAYFLY_CHAOS a short form runs, which asserts nothing about time. Everything is on this machine.
package chaos

import (
	"context"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"

	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/test/testlog"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

const (
	// host is the address of relays.
	host = "127.0.0.6"
	// patience is how long the suite waits for anything.
	patience = 90 * time.Second
)

// handler is a handler that can be replaced, and counts its requests.
type handler struct {
	current atomic.Pointer[http.Handler]
	calls   atomic.Int64
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.calls.Add(1)
	(*h.current.Load()).ServeHTTP(w, r)
}

func (h *handler) use(next http.Handler) { h.current.Store(&next) }

// serveHandler serves h until the test ends. begin gets the URL before the first request.
func serveHandler(t testing.TB, address string, h *handler, begin func(url string)) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	if address != "" {
		_ = s.Listener.Close()
		s.Listener = must(net.Listen("tcp", address))(t)
	}
	url := "http://" + s.Listener.Addr().String()
	begin(url)
	s.Start()
	t.Cleanup(func() { // also where a fault hangs
		s.CloseClientConnections()
		s.Close()
	})
	return url
}

// ctLog is a log with answers, clock and key that the test changes.
type ctLog struct {
	*testlog.Log
	handler
	url   string
	ahead atomic.Int64 // what its clock shows beyond the time
}

func (w *world) newLog(address string) *ctLog {
	l := &ctLog{}
	now := func() time.Time { return time.Now().Add(time.Duration(l.ahead.Load())) }
	l.Log = must(testlog.New(testlog.Config{Now: now}))(w.t)
	l.AddRoot(w.Root)
	l.use(l.Log)
	l.url = serveHandler(w.t, address, &l.handler, func(string) {})
	if len(w.logs)%2 == 1 { // of another operator
		l.url = strings.Replace(l.url, "127.0.0.1", "localhost", 1)
	}
	w.logs = append(w.logs, l)
	w.write(fmt.Sprintf("log-%d.pub", len(w.logs)), string(l.PublicKeyPEM()))
	return l
}

// impostor returns the log with another key, which claims to be l.
func (l *ctLog) impostor(t testing.TB, w *world) http.Handler {
	other := must(testlog.New(testlog.Config{}))(t)
	other.AddRoot(w.Root)
	block, _ := pem.Decode(l.PublicKeyPEM())
	id := sha256.Sum256(block.Bytes)
	other.Alter(func(r *ct.AddChainResponse) { r.ID = id[:] })
	return other
}

// world is a CA with everything around it.
type world struct {
	*testworld.World
	t      *testing.T
	flaky  *provider.Provider // an issuer that can have faults
	issuer handler            // of flaky
	logs   []*ctLog
	http   string // address of the server
	grpc   string
	ops    string
	server *process
	inside func(*exec.Cmd) *exec.Cmd // makes the server run in namespaces of its own; nil for those of the test
	own    bool                      // the server runs in the test binary also in the full form

	clients sync.WaitGroup
	stop    context.CancelFunc
	targets []string // URLs; each client has one

	mu       sync.Mutex // guards the fields below
	changes  []change
	outcomes []outcome
	lines    []*line
}

// line is a line of the table.
type line struct {
	test, fault                          string
	requests, certificates, right, wrong int
	lost                                 int
	recovery                             time.Duration // the longest; negative where nothing recovers
}

// newWorld creates a world with a flaky issuer and n logs, and starts nothing but these.
func newWorld(t *testing.T, n int) *world {
	t.Helper()
	w := &world{World: must(testworld.New(t.TempDir()))(t), t: t, own: !full(), changes: []change{{time.Now(), healthy}}}
	t.Cleanup(w.Close)
	url := serveHandler(t, "", &w.issuer, func(url string) {
		w.flaky = must(provider.New(provider.Config{IssuerURL: url, Algorithm: "ES256"}))(t)
		w.issuer.use(w.flaky)
	})
	w.rewrite("issuers.yaml", "oidc-issuers:\n", fmt.Sprintf("oidc-issuers:\n  %[1]s: {issuer-url: %[1]s, client-id: sigstore, type: email}\n", url))
	var logs strings.Builder
	for range n {
		l := w.newLog("")
		fmt.Fprintf(&logs, "    - {url: %q, public_key: log-%d.pub}\n", l.url, len(w.logs))
	}
	w.rewrite("mayfly.yaml", fmt.Sprintf("    - {url: \"%s\", public_key: log.pub}\n", w.LogURL), logs.String())
	addresses := freeAddresses(t, 3)
	w.http, w.grpc, w.ops = addresses[0], addresses[1], addresses[2]
	w.rewrite("mayfly.yaml", "http: 127.0.0.1:0, grpc: localhost:0, ops: 127.0.0.1:0", fmt.Sprintf("http: %q, grpc: %q, ops: %q", w.http, w.grpc, w.ops))
	if full() {
		w.rewrite("mayfly.yaml", "allow_loopback: true", "allow_loopback: true, key_refresh: 10s")
	}
	w.targets = []string{"http://" + w.http, "grpc://" + w.grpc}
	return w
}

// rewrite replaces old, which must be there once, in a file of the world.
func (w *world) rewrite(name, old, next string) {
	w.t.Helper()
	text := string(must(os.ReadFile(filepath.Join(w.Dir, name)))(w.t))
	if strings.Count(text, old) != 1 {
		w.t.Fatalf("%s holds %q %d times:\n%s", name, old, strings.Count(text, old), text)
	}
	w.write(name, strings.Replace(text, old, next, 1))
}

// write replaces a file of the world at once, as an operator's tools do.
func (w *world) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.Dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		w.t.Fatal(err)
	}
}

// start starts the server, and returns when it is alive.
func (w *world) start() {
	w.t.Helper()
	cmd := command(w.t, w.own, "serve", w.ConfigFile)
	if w.inside != nil {
		w.inside(cmd)
	}
	w.server = start(w.t, cmd)
	w.await("a live server", func() bool {
		if !w.server.Alive() {
			w.t.Fatalf("the server has stopped:\n%s", w.server.output)
		}
		return w.get("/livez")
	})
}

// get reports whether the ops listener answers 200.
func (w *world) get(path string) bool {
	response, err := http.Get("http://" + w.ops + path)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// fetch returns what the ops listener answers.
func (w *world) fetch(path string) []byte {
	response, err := http.Get("http://" + w.ops + path)
	if err != nil {
		return nil
	}
	defer func() { _ = response.Body.Close() }()
	body, _ := io.ReadAll(response.Body)
	return body
}

// await waits until condition holds.
func (w *world) await(what string, condition func() bool) {
	w.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(end) {
			w.t.Fatalf("there is not %s within %s: %+v\n%s\n%s", what, patience, w.current(), w.summary(), w.server.output)
		}
	}
}

// servers counts the servers, each of which has a host of its own: so no other takes a free port in between.
var servers atomic.Uint32

func freeAddresses(t testing.TB, n int) []string {
	t.Helper()
	server := servers.Add(1)
	return must(testworld.FreeAddresses(fmt.Sprintf("127.6.%d.%d", server>>8, server&255), n))(t)
}
