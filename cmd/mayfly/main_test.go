// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mayfly-ca/mayfly/test/testworld"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mayfly": main})
}

// TestCommands runs the transcripts in testdata: what an operator types, and the output.
func TestCommands(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Values["replicas"] = &replicas{}
			examples, err := filepath.Abs("../../deploy/examples")
			inspect, errInspect := filepath.Abs("testdata/inspect") // written by cosign, for a world that is gone
			env.Setenv("EXAMPLES", examples)
			earlier, errEarlier := filepath.Abs("testdata/earlier") // written by an earlier version, as its README.md states
			env.Setenv("INSPECT", inspect)
			env.Setenv("EARLIER", earlier)
			return errors.Join(err, errInspect, errEarlier)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"world":      world,
			"waitready":  waitReady,
			"breakchain": breakChain,
			"named":      named,
			"useset":     useSet,
			"publicset":  publicSet,
			"waitmetric": waitMetric,
			"embed":      embedLog,
			"hold":       hold,
			"waitclosed": waitClosed,
			"recipe":     recipe,
			"clients":    clients,
			"exits":      exits,
		},
	})
}

// world creates a provider, a log and the files of a CA in $WORK/world, with one token in
// world/token. It sets REST, GRPC, OPS, OTHER and DEV to free addresses.
func world(ts *testscript.TestScript, _ bool, _ []string) {
	dir := ts.MkAbs("world")
	ts.Check(os.Mkdir(dir, 0o700))
	w, err := testworld.New(dir)
	ts.Check(err)
	ts.Defer(w.Close)
	token, err := w.Provider.Mint(map[string]any{"sub": "person-1", "email": "person@example.com", "email_verified": true})
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("world/token"), []byte(token+"\n"), 0o600))
	other, err := w.Provider.Mint(map[string]any{"aud": "somebody-else", "sub": "person-1", "email": "person@example.com", "email_verified": true})
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("world/token-for-another-audience"), []byte(other), 0o600))
	for _, name := range []string{"REST", "GRPC", "OPS", "OTHER", "DEV"} {
		// Nothing else here uses ports of this address, so no other process takes this port before
		// mayfly. Where the address does not exist, the test may fail, and the failure states it.
		for given := true; given; {
			l, err := net.Listen("tcp", "127.0.0.2:0")
			if err != nil || name == "DEV" { // a development world has the host of its --listen in its files
				l, err = net.Listen("tcp", "127.0.0.1:0")
			}
			ts.Check(err)
			ts.Setenv(name, l.Addr().String())
			_, given = portsGiven.LoadOrStore(l.Addr().String(), true)
			ts.Check(l.Close())
		}
	}
}

// named sets NAME to a name of this machine that is no loopback name and leads to a loopback address
// only, as /etc/hosts may have one; otherwise to a loopback address. ADDRESS is a free one there.
func named(ts *testscript.TestScript, _ bool, _ []string) {
	name, address := "127.0.0.3", "127.0.0.3"
	if host, err := os.Hostname(); err == nil {
		found, err := net.LookupHost(host)
		if err == nil && !slices.ContainsFunc(found, func(a string) bool { return !net.ParseIP(a).IsLoopback() }) {
			name, address = strings.ToLower(host), found[0]
		}
	}
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	ts.Check(err)
	ts.Setenv("NAME", name)
	ts.Setenv("ADDRESS", l.Addr().String())
	ts.Setenv("PORT", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	ts.Check(l.Close())
}

// portsGiven are the addresses that transcripts have received: none is given twice.
var portsGiven sync.Map

// useSet replaces the key file in the world's configuration by the CA set.
func useSet(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 0 {
		ts.Fatalf("usage: useset")
	}
	name := ts.MkAbs("world/mayfly.yaml")
	var lines []string
	for line := range strings.Lines(ts.ReadFile(name)) {
		if strings.HasPrefix(strings.TrimSpace(line), "file: {chain") {
			line = "  set: ca/ca.yaml\n"
		}
		lines = append(lines, line)
	}
	ts.Check(os.WriteFile(name, []byte(strings.Join(lines, "")), 0o600))
}

// publicSet copies the CA set of the folder FROM to the folder TO, without its keys, and makes the
// world's configuration name the copy.
func publicSet(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: publicset FROM TO")
	}
	from, to := ts.MkAbs(args[0]), ts.MkAbs(args[1])
	chains, err := filepath.Glob(from + "/*/chain.pem")
	ts.Check(err)
	for _, file := range append(chains, filepath.Join(from, "ca.yaml")) {
		name, err := filepath.Rel(from, file)
		ts.Check(err)
		content, err := os.ReadFile(file)
		ts.Check(err)
		ts.Check(os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o700))
		ts.Check(os.WriteFile(filepath.Join(to, name), content, 0o600))
	}
	name := ts.MkAbs("world/mayfly.yaml")
	ts.Check(os.WriteFile(name, []byte(strings.ReplaceAll(ts.ReadFile(name), "set: ca/ca.yaml", "set: "+filepath.Join(to, "ca.yaml"))), 0o600))
}

// breakChain empties the chain of the only authority in a CA's folder.
func breakChain(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: breakchain DIR")
	}
	chains, err := filepath.Glob(ts.MkAbs(args[0]) + "/*/chain.pem")
	ts.Check(err)
	if len(chains) != 1 {
		ts.Fatalf("%s has the chains %v, want one", args[0], chains)
	}
	ts.Check(os.Truncate(chains[0], 0))
}

// embedLog writes DIR/embedded.yaml: the world's configuration with an embedded log.
func embedLog(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: embed DIR")
	}
	content := ts.ReadFile(args[0] + "/mayfly.yaml")
	before, _, found := strings.Cut(content, "    - {url:")
	if !found {
		ts.Fatalf("%s/mayfly.yaml has no log", args[0])
	}
	before += "    - {embedded: {name: \"2026\", dir: ctlog/2026, guard: guard/2026.json, key: ctlog-2026.key, origin: log.example/2026}}\n"
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+"/embedded.yaml"), []byte(before), 0o600))
}

// waitMetric polls metrics until a line matches.
func waitMetric(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: waitmetric URL PATTERN")
	}
	pattern := regexp.MustCompile("(?m)" + args[1])
	poll(ts, "no line of "+args[0]+" matches "+args[1], func() bool {
		_, body := get(args[0])
		return pattern.MatchString(body)
	})
}

// waitReady polls readiness until the server of the URL is ready.
func waitReady(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: waitready URL")
	}
	poll(ts, args[0]+" is not ready", func() bool {
		status, _ := get(strings.TrimSuffix(args[0], "/") + "/readyz")
		return status == http.StatusOK
	})
}

// waitClosed connects to an address until the connection is refused.
func waitClosed(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: waitclosed ADDRESS")
	}
	poll(ts, args[0]+" still accepts connections", func() bool {
		conn, err := net.Dial("tcp", args[0])
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
}

func poll(ts *testscript.TestScript, failure string, holds func() bool) {
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("%s in time", failure)
		}
	}
}

func get(url string) (status int, body string) {
	response, err := http.Get(url)
	if err != nil {
		return 0, ""
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, ""
	}
	return response.StatusCode, string(content)
}

// exits runs a command that must return an exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	code := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		code = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if code != args[0] {
		ts.Fatalf("the exit code is %s, want %s", code, args[0])
	}
}

// hold sends half a request to an address, and keeps the connection until the transcript stops.
func hold(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: hold ADDRESS")
	}
	conn, err := net.Dial("tcp", args[0])
	ts.Check(err)
	ts.Defer(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, "POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
	ts.Check(err)
	_, err = io.ReadFull(conn, make([]byte, 10)) // the server now waits for the body
	ts.Check(err)
}
