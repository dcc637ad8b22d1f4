// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
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
	synctest.Test(t, verboseReadiness) // where no time passes between the checks
}

func verboseReadiness(t *testing.T) {
	down := errors.New("dial tcp 10.0.0.7:443: secret")
	var fine error
	f := newFixture(t, func(c *Config) {
		c.Checks = []Check{
			check("ct-log", true, &down),
			check("issuer", false, &fine),
			{Name: "broken", Probe: func(context.Context) (string, error) { panic("secret") }},
		}
	})
	stamp := f.health.started.Format(time.RFC3339Nano)
	since := `,"since":"` + stamp + `"`
	failed := func(text string) string {
		return `,"error":"` + text + `"` + since + `,"last_error":"` + text + `","last_error_at":"` + stamp + `"`
	}
	for where, answer := range map[string]*http.Response{"ops": f.ops(t, "/readyz?verbose"), "API": f.do(t, "GET", "/readyz?verbose", "")} {
		errs := map[string][4]string{"ops": {
			failed("dial tcp 10.0.0.7:443: secret"), since, failed("panic: secret"), since + `,"runbook":"docs/operations.md#shutdown-and-rollouts"`,
		}}[where]
		want := fmt.Sprintf(`{"status":"NOT_SERVING","checks":[{"name":"ct-log","state":"failed","critical":true,"detail":"detail of ct-log"%s},`+
			`{"name":"issuer","state":"ok","critical":false,"detail":"detail of issuer"%s},{"name":"broken","state":"failed","critical":false%s},`+
			`{"name":"draining","state":"ok","critical":true,"detail":"the server stays"%s}]}`, errs[0], errs[1], errs[2], errs[3])
		if diff := cmp.Diff(want, readAll(t, answer)); diff != "" {
			t.Errorf("%s: %s", where, diff)
		}
	}
}

// Each check has the time since when it is in its state, and its last error also after it has recovered.
// The server runs the checks although no client asks. The log has the critical ones.
func TestChecksRemember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ct, issuer atomic.Pointer[error]
		probe := func(of *atomic.Pointer[error]) func(context.Context) (string, error) {
			return func(context.Context) (string, error) {
				if err := of.Load(); err != nil {
					return "", *err
				}
				return "", nil
			}
		}
		f := newFixture(t, func(c *Config) {
			c.Checks = []Check{{Name: "ct-log", Critical: true, Probe: probe(&ct)}, {Name: "issuer", Probe: probe(&issuer)}}
		})
		ctx, stop := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() { f.health.watch(ctx) })
		defer watching.Wait()
		defer stop()
		start := time.Now().UTC()
		expect := func(when string, since time.Time, want ...History) {
			t.Helper()
			state := f.State(t.Context())
			var got []History
			for _, c := range state.Checks {
				got = append(got, c.History)
			}
			if diff := cmp.Diff(append(want, History{Since: start}), got); diff != "" || !state.Since.Equal(since) {
				t.Errorf("%s: since %v, want %v; (-want +got):\n%s", when, state.Since, since, diff)
			}
		}
		time.Sleep(12 * watchInterval)
		time.Sleep(time.Second) // never at the time of a check
		expect("at first", start, History{Since: start}, History{Since: start})
		down, slow := errors.New("down"), errors.New("slow")
		ct.Store(&down)
		issuer.Store(&slow)
		failed := start.Add(13 * watchInterval)
		time.Sleep(12 * watchInterval)
		last := time.Now().UTC()
		expect("failing", failed, History{failed, "down", last}, History{failed, "slow", last})
		ct.Store(nil)
		issuer.Store(nil)
		recovered := start.Add(25 * watchInterval)
		time.Sleep(time.Hour)
		expect("recovered", recovered, History{recovered, "down", last}, History{recovered, "slow", last})
		for _, c := range f.State(t.Context()).Checks {
			if c.Failed() || c.Error != "" {
				t.Errorf("recovered, and %+v", c)
			}
		}
		var lines []string
		for line := range strings.Lines(f.log.String()) {
			var record map[string]any
			if err := json.Unmarshal([]byte(line), &record); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, fmt.Sprint(record["level"], " ", record["check"], " ", record["error"]))
		}
		if diff := cmp.Diff([]string{"ERROR ct-log down", "INFO ct-log <nil>"}, lines); diff != "" {
			t.Errorf("the log (-want +got):\n%s", diff)
		}
	})
}

// GET /status has the whole state, only on ops, and no error without a bound.
func TestStatusIsForOps(t *testing.T) {
	t.Parallel()
	endless := errors.New(strings.Repeat("é", maxErrorText))
	f := newFixture(t, func(c *Config) {
		c.Checks = []Check{check("ct-log", true, &endless)}
		c.Limits.Connections = 100
		c.State = func(s *State) { s.Release, s.SetGeneration = "v1", 7 }
	})
	answer := f.ops(t, "/status")
	var state State
	if err := json.Unmarshal([]byte(readAll(t, answer)), &state); err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Cache-Control") != "no-store" || answer.Header.Get("Content-Type") != typeJSON {
		t.Errorf("%d %v", answer.StatusCode, answer.Header)
	}
	limits := []LimitState{{"limits.in_flight", 0, 512}, {"limits.connections", 0, 100}}
	if state.Version != StateVersion || state.Release != "v1" || state.SetGeneration != 7 || state.Status != notServing || state.Started.IsZero() || state.At.IsZero() || !slices.Equal(state.Limits, limits) {
		t.Errorf("%+v", state)
	}
	if c := state.Checks[0]; !c.Failed() || !strings.HasPrefix(c.Error, "éé") || len(c.Error) > maxErrorText+3 || !utf8.ValidString(c.Error) {
		t.Errorf("a long error has %d bytes", len(c.Error))
	}
	if public := f.do(t, "GET", "/status", ""); public.StatusCode != http.StatusNotFound {
		t.Errorf("the public listener answers %d", public.StatusCode)
	}
	w := httptest.NewRecorder()
	f.begin(f.serveOps).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "POST", "/status", nil))
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") == "" {
		t.Errorf("POST: %d %v", w.Code, w.Header())
	}
}

// A server that shuts down is not ready from the first moment, over HTTP and gRPC, and states so.
func TestDrainingIsACheck(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	expect := func(detail string) {
		t.Helper()
		r := f.health.report(t.Context())
		if c := r.Checks[0]; c.Name != "draining" || !c.Critical || !c.Failed() || c.Detail != detail || r.Status != notServing {
			t.Errorf("%+v", r)
		}
		over, err := service{Server: f.Server}.Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || over.Status != healthpb.HealthCheckResponse_NOT_SERVING {
			t.Errorf("gRPC: %v, %v", over, err)
		}
		if ready := f.do(t, "GET", "/readyz", ""); ready.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("/readyz: %d", ready.StatusCode)
		}
		if live := f.do(t, "GET", "/livez", ""); live.StatusCode != http.StatusOK {
			t.Errorf("/livez: %d", live.StatusCode)
		}
	}
	if r := f.health.report(t.Context()); r.Status != serving {
		t.Errorf("%+v", r)
	}
	close(f.health.stopping)
	expect("not ready any more, and still serving")
	close(f.health.draining)
	f.health.at = time.Time{} // as after an interval
	expect("no new connections")
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
