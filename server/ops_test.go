// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// profile requests a path of the ops listener with a Host and more headers: name, value, ….
func (f *fixture) profile(t *testing.T, method, host, target string, headers ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, nil)
	r.Host = host
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	f.begin(f.serveOps).ServeHTTP(w, r)
	return w.Result()
}

// Profiles exist only where they are switched on, and never on the listener of the APIs. The process
// makes one execution trace at a time, so this test is not parallel.
func TestPProfIsOff(t *testing.T) {
	off := newFixture(t, nil)
	checkRefusal(t, off.profile(t, "GET", "localhost", "/debug/pprof/"), refusal.PathNotFound)
	on := newFixture(t, func(c *Config) { c.Ops.PProf = true })
	checkRefusal(t, on.do(t, "GET", "/debug/pprof/", ""), refusal.PathNotFound)
	for path, want := range map[string]string{"": "goroutine", "cmdline": "server", "goroutine?debug=1": "goroutine profile", "symbol": "num_symbols", "heap": "", "trace?seconds=0.01": ""} {
		resp := on.profile(t, "GET", "localhost:2112", "/debug/pprof/"+path)
		if body := readAll(t, resp); resp.StatusCode != http.StatusOK || body == "" || !strings.Contains(body, want) {
			t.Errorf("%q: status %d and %.200q", path, resp.StatusCode, body)
		}
	}
}

// A profile is for GET and a Host of this machine.
func TestPProfRefusesForeignSites(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) { c.Ops = Ops{PProf: true, Hosts: []string{"ops.example"}} })
	const path = "/debug/pprof/symbol"
	for _, host := range []string{"localhost", "LOCALHOST:2112", "127.0.0.1", "127.0.0.1:2112", "[::1]", "[::1]:2112", "10.0.0.7:80", "ops.example", "Ops.Example:2112"} {
		if resp := f.profile(t, "GET", host, path); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d", host, resp.StatusCode)
		}
	}
	for _, host := range []string{"", "evil.example", "localhost.evil.example", "evil.localhost", "localhost.", "127.0.0.1.evil.example", "127.1", "x.ops.example", "ops.example@evil.example", "127.0.0.1:2112:1"} {
		checkRefusal(t, f.profile(t, "GET", host, path), refusal.RequestMalformed)
	}
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		checkRefusal(t, f.profile(t, method, "localhost", path), refusal.MethodNotPermitted)
	}
}

// The state, and the errors of checks, are for a Host that no foreign web site can have. Monitoring reads the rest by any name.
func TestStateRefusesForeignSites(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) {
		c.Ops.Hosts = []string{"ops.example"}
		c.Checks = []Check{{Name: "x", Probe: func(context.Context) (string, error) { return "", errors.New("an inner error") }}}
	})
	verbose := func(host string) string { return readAll(t, f.profile(t, "GET", host, "/readyz?verbose")) }
	for _, host := range []string{"localhost", "127.0.0.1:2112", "[::1]:2112", "ops.example", "mayfly:2112", "mayfly.ca.svc", "Mayfly.CA.SVC.cluster.local:2112", "host.internal"} {
		if resp := f.profile(t, "GET", host, "/status"); resp.StatusCode != http.StatusOK || !strings.Contains(verbose(host), "inner error") {
			t.Errorf("%s: status %d, and %s", host, resp.StatusCode, verbose(host))
		}
	}
	for _, host := range []string{"evil.example", "svc.evil.example", "evil.example.", "127.0.0.1.evil.example", "", "."} {
		checkRefusal(t, f.profile(t, "GET", host, "/status"), refusal.RequestMalformed)
		if body := verbose(host); strings.Contains(body, "inner error") || !strings.Contains(body, `"failed"`) {
			t.Errorf("%s: %s", host, body)
		}
		for _, path := range []string{"/livez", "/readyz", "/metrics"} {
			if resp := f.profile(t, "GET", host, path); resp.StatusCode != http.StatusOK {
				t.Errorf("%s%s: status %d", host, path, resp.StatusCode)
			}
		}
	}
}

// A profile under way ends when the shutdown begins, so that it does not delay it.
func TestPProfEndsWithTheServer(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Ops.PProf = true })
	l, address := listen(t)
	api, _ := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- f.Serve(ctx, Listeners{HTTP: api, Ops: l}) }()
	resp, err := http.Get("http://" + address + "/debug/pprof/trace?seconds=60")
	if err != nil { // the header comes with the first bytes of the trace
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cancel()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
