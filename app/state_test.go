// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/test/testlog"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// clocks are the clocks of a machine, which a test moves.
type clocks struct{ wall, steady atomic.Int64 }

// passes lets time pass for both clocks.
func (c *clocks) passes(d time.Duration) {
	c.wall.Add(int64(d))
	c.steady.Add(int64(d))
}

func (c *clocks) start(t *testing.T, w *testworld.World) *running {
	t.Helper()
	began := time.Now()
	return startAs(t, w, app.Options{
		ConfigFile: w.ConfigFile, Version: "v1",
		Now:    func() time.Time { return time.Now().Add(time.Duration(c.wall.Load())) },
		Steady: func() time.Duration { return time.Since(began) + time.Duration(c.steady.Load()) },
	})
}

// state is the state of the server on its ops listener.
func (r *running) state(t *testing.T) (s server.State) {
	t.Helper()
	if err := json.Unmarshal([]byte(fetch(t, r.ops+"/status")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// check returns a check of the state, once it fails or passes as expected.
func (r *running) check(t *testing.T, name string, failed bool) (c server.CheckState) {
	t.Helper()
	await(t, fmt.Sprintf("%s: failed %t", name, failed), func() bool {
		for _, c = range r.state(t).Checks {
			if c.Name == name {
				return c.Failed() == failed
			}
		}
		return false
	})
	return c
}

// While the clock has stepped, every request gets CLOCK_WRONG, also one without a token, and the server
// is not ready. It recovers by itself: when the clock steps back, and otherwise after five minutes.
func TestStepOfTheClock(t *testing.T) {
	t.Parallel()
	c := &clocks{}
	r := c.start(t, newWorld(t))
	wantReason(t, r, nil, "")
	for name, recovers := range map[string]func(){
		"back":      func() { c.wall.Add(-int64(time.Hour)) },
		"suspended": func() { c.passes(5 * time.Minute) },
	} {
		c.wall.Add(int64(time.Hour))
		wantReason(t, r, nil, "CLOCK_WRONG")
		if reason, header := r.ask(t, "192.0.2.1", "no token"); reason != "CLOCK_WRONG" || header.Get("Retry-After") == "" {
			t.Errorf("%s: %s %v", name, reason, header)
		}
		failed := r.check(t, "clock", true)
		if s := r.state(t); s.Status != "NOT_SERVING" || !failed.Critical || failed.Error == "" || r.metric(t, "mayfly_clock_wrong") != 1 {
			t.Errorf("%s: %+v", name, s)
		}
		if public := fetch(t, r.rest+"/readyz?verbose"); strings.Contains(public, failed.Error) || !strings.Contains(public, "NOT_SERVING") {
			t.Errorf("%s: in public: %s", name, public)
		}
		recovers()
		wantReason(t, r, nil, "")
		if passed := r.check(t, "clock", false); passed.LastError == "" || passed.LastErrorAt.IsZero() || !passed.Since.After(failed.Since) || r.metric(t, "mayfly_clock_wrong") != 0 {
			t.Errorf("%s: %+v after %+v", name, passed, failed)
		}
	}
	for _, line := range []string{"not ready: a critical check fails", "check=clock"} {
		if !strings.Contains(r.log.String(), line) {
			t.Errorf("the log lacks %q", line)
		}
	}
}

// One log with a wrong clock costs its SCTs only. Those of two operators stop issuance. Then one request in a while asks them
// again, and gets a certificate if they agree.
func TestLogsThatDisagreeWithTheClock(t *testing.T) {
	t.Parallel()
	var offset, asked atomic.Int64
	w := newWorld(t)
	entries := ""
	for _, host := range []string{"127.0.0.1", "localhost"} {
		late := must(testlog.New(testlog.Config{Roots: []*x509.Certificate{w.Root}, Now: func() time.Time {
			return time.Now().Add(time.Duration(offset.Load()))
		}}))(t)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			late.ServeHTTP(w, r)
		}))
		t.Cleanup(s.Close)
		written(host+".pub", string(late.PublicKeyPEM()))(t, w)
		entries += fmt.Sprintf("    - {url: %q, public_key: %s.pub}\n", strings.Replace(s.URL, "127.0.0.1", host, 1), host)
	}
	edited("mayfly.yaml", "    - "+remoteEntry(w)+"\n", entries)(t, w)
	c := &clocks{}
	r := c.start(t, w)
	refused := func(questions int64) {
		t.Helper()
		before := asked.Load()
		wantReason(t, r, nil, "CLOCK_WRONG")
		if n := asked.Load() - before; n != questions {
			t.Errorf("the logs were asked %d times; %d are expected", n, questions)
		}
	}
	pass := func() { c.steady.Add(int64(2 * time.Second)) } // the wall clock stays that of the logs; this is no step
	for _, wrong := range []time.Duration{-3 * time.Minute, time.Minute} {
		wantReason(t, r, nil, "")
		offset.Store(int64(wrong))
		wantReason(t, r, nil, "CT_UNAVAILABLE")
		pass()
		refused(2)
		refused(0)
		r.check(t, "clock", true)
		pass()
		refused(2)
		offset.Store(0)
		refused(0)
		pass()
		if reason, _ := r.ask(t, "192.0.2.1", "no token"); reason != "CLOCK_WRONG" { // asks no log, and delays no other request
			t.Errorf("a request without a token: %s", reason)
		}
		wantReason(t, r, nil, "")
		r.check(t, "clock", false)
	}
	for _, log := range r.state(t).Logs {
		if log.Kind != "remote" || log.LastError == "" || log.LastErrorAt.IsZero() {
			t.Errorf("%+v", log)
		}
	}
}

// A step after the first look at the clock, and before the certificate's times are set, stops the certificate.
func TestStepWithinARequest(t *testing.T) {
	t.Parallel()
	var armed atomic.Bool
	var looks atomic.Int64
	began, w := time.Now(), newWorld(t)
	r := startAs(t, w, app.Options{
		ConfigFile: w.ConfigFile, Steady: func() time.Duration { return time.Since(began) },
		Now: func() time.Time {
			if armed.Load() && looks.Add(1) > 1 {
				return time.Now().Add(time.Hour)
			}
			return time.Now()
		},
	})
	wantReason(t, r, nil, "")
	armed.Store(true)
	wantReason(t, r, nil, "CLOCK_WRONG")
}

// The state has every part, and each check has a row and a runbook in the documents.
func TestStateIsComplete(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withSet, func(t *testing.T, w *testworld.World) {
		initLog(t, w)
		edited("mayfly.yaml", remoteEntry(w), embeddedLog+"\n    - "+remoteEntry(w))(t, w)
	})
	r := startAs(t, w, app.Options{ConfigFile: w.ConfigFile, Version: "v1"})
	wantReason(t, r, nil, "")
	s := r.state(t)
	if s.Version != server.StateVersion || s.Release != "v1" || s.Status != "SERVING" || s.ConfigGeneration != 1 || s.SetGeneration != 1 || s.ConfigSHA256 == "" ||
		s.ConfigLoaded.IsZero() || s.RestartPending || s.KernelClock == "" || s.Started.IsZero() || s.Since.IsZero() || len(s.Limits) != 2 || s.Limits[0].Limit != 512 {
		t.Errorf("%+v", s)
	}
	if a := s.Authorities; len(a) != 1 || a[0].State != "active" || a[0].Since.IsZero() || a[0].ActivateAt.IsZero() || a[0].ChainEnds.IsZero() {
		t.Errorf("authorities: %+v", a)
	}
	if k := s.Keys; len(k) != 1 || k[0].Name != s.Authorities[0].Name || k[0].Kind != "file" || k[0].State != "closed" || k[0].LastSuccess.IsZero() {
		t.Errorf("keys: %+v", k)
	}
	if l := s.Logs; len(l) != 2 || l[0].Kind != "embedded" || l[0].TreeSize != 1 || l[0].LastSuccess.IsZero() || l[1].Kind != "remote" || !l[1].LastSuccess.IsZero() {
		t.Errorf("logs: %+v", l)
	}
	if i := s.Issuers; len(i) != 1 || i[0].State != "ok" || i[0].Kind != "static" || i[0].LastSuccess.IsZero() || s.IssuerStates["ok"] != 1 {
		t.Errorf("issuers: %+v, %v", i, s.IssuerStates)
	}
	document := string(must(os.ReadFile("../docs/operations.md"))(t))
	for _, c := range s.Checks {
		file, section, _ := strings.Cut(c.Runbook, "#")
		if name := strings.Replace(c.Name, "ctlog 2026", "ctlog NAME", 1); !hasSection(t, file, section) || !strings.Contains(document, "| `"+name+"` | ") {
			t.Errorf("the check %s has the runbook %q, or no row in docs/operations.md", c.Name, c.Runbook)
		}
	}
	text := must(json.Marshal(s))(t)
	for _, key := range strings.Split("version release at started status since checks config_generation config_loaded config_sha256 restart_pending ca_set_generation kernel_clock "+
		"authorities keys logs issuers issuer_states limits", " ") {
		if !strings.Contains(string(text), `"`+key+`":`) || !strings.Contains(document, "`"+key) {
			t.Errorf("the key %s is not in the state, or not in docs/operations.md", key)
		}
	}
	if response := must(http.Get(r.rest + "/status"))(t); response.StatusCode != http.StatusNotFound {
		t.Errorf("the public listener answers %s", response.Status)
	}
}

// The report of many issuers is bounded, and has those that fail.
func TestStateOfManyIssuers(t *testing.T) {
	t.Parallel()
	const many = 300
	var entries strings.Builder
	for i := range many {
		fmt.Fprintf(&entries, "  http://127.0.0.1:1/%[1]d: {issuer-url: 'http://127.0.0.1:1/%[1]d', client-id: sigstore, type: email}\n", i)
	}
	r := start(t, newWorld(t, edited("issuers.yaml", "oidc-issuers:\n", "oidc-issuers:\n"+entries.String())))
	var s server.State
	await(t, "every state", func() bool {
		s = r.state(t)
		return s.IssuerStates["failing"] == many && s.IssuerStates["ok"] == 1
	})
	if len(s.Issuers) != 200 || s.Issuers[199].State != "failing" || s.Issuers[0].LastError == "" || s.Issuers[0].Since.IsZero() || s.Issuers[0].LastErrorAt.IsZero() {
		t.Errorf("%d are listed, the first as %+v", len(s.Issuers), s.Issuers[0])
	}
	c := r.check(t, "issuers", true)
	if !strings.HasSuffix(c.Detail, "; 101 other entries are less urgent") || len(c.Error) > 5<<10 || len(c.Error) < 1<<10 {
		t.Errorf("the detail has %d bytes, the error %d", len(c.Detail), len(c.Error))
	}
}
