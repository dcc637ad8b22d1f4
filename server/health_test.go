// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// check returns a check that fails with the error that failing points to.
func check(name string, critical bool, failing *error) Check {
	return Check{Name: name, Critical: critical, Probe: func(context.Context) (string, error) {
		return "detail of " + name, *failing
	}}
}

func TestHealthTellsTheTruth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ct, issuer error
		f := newFixture(t, func(c *Config) {
			c.Checks = []Check{check("ct-log", true, &ct), check("issuer", false, &issuer)}
		})
		expect := func(when, path string, wantCode int, wantStatus string) {
			t.Helper()
			resp := f.do(t, "GET", path, "")
			if body := readAll(t, resp); resp.StatusCode != wantCode || body != `{"status":"`+wantStatus+`"}` {
				t.Errorf("%s, %s: %d %s, want %d %s", when, path, resp.StatusCode, body, wantCode, wantStatus)
			}
			ready := fmt.Sprintf("# HELP mayfly_ready 1 while the server is ready, as /readyz reports.\n# TYPE mayfly_ready gauge\nmayfly_ready %d\n", 1-wantCode/503)
			if err := testutil.GatherAndCompare(f.cfg.Registry, strings.NewReader(ready), "mayfly_ready"); path != "/livez" && err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		for _, path := range []string{"/healthz", "/readyz", "/livez"} {
			expect("at first", path, 200, "SERVING")
		}
		ct = errors.New("down")
		expect("within an interval", "/healthz", 200, "SERVING")
		time.Sleep(time.Second) // in the bubble's time
		expect("with a critical failure", "/healthz", 503, "NOT_SERVING")
		expect("with a critical failure", "/readyz", 503, "NOT_SERVING")
		expect("with a critical failure", "/livez", 200, "SERVING")
		ct, issuer = nil, errors.New("unreachable")
		time.Sleep(time.Second)
		expect("with another failure", "/readyz", 200, "SERVING")
		close(f.health.stopping)
		expect("in shutdown", "/readyz", 503, "NOT_SERVING")
		expect("in shutdown", "/livez", 200, "SERVING")
	})
}

func TestVerboseReadinessKeepsErrorsForOps(t *testing.T) {
	t.Parallel()
	down := errors.New("dial tcp 10.0.0.7:443: secret")
	var fine error
	f := newFixture(t, func(c *Config) {
		c.Checks = []Check{
			check("ct-log", true, &down),
			check("issuer", false, &fine),
			{Name: "broken", Probe: func(context.Context) (string, error) { panic("secret") }},
		}
	})
	for where, answer := range map[string]*http.Response{"ops": f.ops(t, "/readyz?verbose"), "API": f.do(t, "GET", "/readyz?verbose", "")} {
		errs := map[string][2]string{"ops": {`,"error":"dial tcp 10.0.0.7:443: secret"`, `,"error":"panic: secret"`}}[where]
		want := fmt.Sprintf(`{"status":"NOT_SERVING","checks":[{"name":"ct-log","state":"failed","critical":true,"detail":"detail of ct-log"%s},`+
			`{"name":"issuer","state":"ok","critical":false,"detail":"detail of issuer"},{"name":"broken","state":"failed","critical":false%s}]}`, errs[0], errs[1])
		if diff := cmp.Diff(want, readAll(t, answer)); diff != "" {
			t.Errorf("%s: %s", where, diff)
		}
	}
}

func TestHangingCheckFailsInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		f := newFixture(t, func(c *Config) {
			c.Checks = []Check{{Name: "hangs", Critical: true, Probe: func(ctx context.Context) (string, error) {
				calls.Add(1)
				<-ctx.Done()
				return "", ctx.Err()
			}}}
		})
		start := time.Now()
		done := make(chan int)
		for range 10 {
			go func() { done <- f.do(t, "GET", "/readyz", "").StatusCode }()
		}
		for range 10 {
			if got := <-done; got != http.StatusServiceUnavailable {
				t.Errorf("status is %d", got)
			}
		}
		if took := time.Since(start); took != probeTimeout || calls.Load() != 1 {
			t.Errorf("%d probes took %v, want one and %v", calls.Load(), took, probeTimeout)
		}
	})
}
