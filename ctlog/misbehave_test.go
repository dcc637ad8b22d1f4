// SPDX-License-Identifier: Apache-2.0

package ctlog_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/breaker"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

type request = func(http.ResponseWriter, *http.Request) bool

func answering(status int, header, body string) request {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		if header != "" {
			w.Header().Set("Retry-After", header)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return true
	}
}

// drip begins an answer, and continues one byte at a time until the client disconnects.
func drip(w http.ResponseWriter, r *http.Request) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	flusher := http.NewResponseController(w)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		_, _ = io.WriteString(w, " ")
		_ = flusher.Flush()
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return true
		}
	}
}

// misbehaviours are the ways in which a log over HTTP misbehaves in this test.
var misbehaviours = map[string]misbehaviour{
	"hangs":                        {fail: testlog.Hang},
	"hangs within its answer":      {fail: drip},
	"cuts the connection":          {fail: func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }},
	"429 with Retry-After":         {fail: answering(429, "3", "")},
	"429 with a long Retry-After":  {fail: answering(429, "86400", "")},
	"503 without Retry-After":      {fail: answering(503, "", "")},
	"500":                          {fail: answering(500, "", "down")},
	"garbage":                      {fail: answering(200, "", "<html>")},
	"another log's SCT":            {}, // its key is not the configured one
	"another log's SCT as its own": {alter: func(r *ct.AddChainResponse) { r.Signature[20] ^= 1 }},
	"a stale timestamp, signed":    {clock: -121 * time.Second},
	"a future timestamp, signed":   {clock: 11 * time.Second},
	"an unknown extension":         {alter: func(r *ct.AddChainResponse) { r.Extensions = "CQAA" }},
	"an unsigned leaf index":       {alter: func(r *ct.AddChainResponse) { r.Extensions = "AAAFAAAAAAE=" }},
	"a bad signature":              {alter: func(r *ct.AddChainResponse) { r.Signature[30] ^= 1 }},
}

type misbehaviour struct {
	fail  request
	alter func(*ct.AddChainResponse)
	clock time.Duration // how far it is wrong
}

// TestMisbehavingLogs uses real sockets, and runs alone, so that every goroutine that it
// finds at the end is its own.
func TestMisbehavingLogs(t *testing.T) {
	before := runtime.NumGoroutine()
	for name, misbehave := range misbehaviours {
		t.Run(name, func(t *testing.T) { testMisbehavingLog(t, name, misbehave) })
	}
	waitForGoroutines(t, before)
}

func testMisbehavingLog(t *testing.T, name string, misbehave misbehaviour) {
	// Alone, the bad log gets a short budget; beside a good one, the budget suffices for a busy
	// machine.
	const short, budget, hedge = 500 * time.Millisecond, time.Minute, 50 * time.Millisecond
	good := newFixture(t, nil)
	bad := newFixture(t, func(c *testlog.Config) { c.Now = func() time.Time { return now().Add(misbehave.clock) } })
	bad.log.AddRoot(good.authority.Root)
	bad.log.Fail(misbehave.fail)
	bad.log.Alter(misbehave.alter)
	badKey := bad.log.PublicKeyPEM()
	if name == "another log's SCT" {
		badKey = newFixture(t, nil).log.PublicKeyPEM()
	}
	config := func(budget time.Duration, logs ...ctlog.LogConfig) ctlog.Config {
		return ctlog.Config{Budget: budget, Hedge: hedge, Logs: logs}
	}
	// The end of this subtest closes these servers, including requests that hang.
	badServer, goodServer := httptest.NewServer(bad.log), httptest.NewServer(good.log)
	defer badServer.Close()
	defer goodServer.Close()
	badLog := ctlog.LogConfig{Log: newRemote(t, badServer.URL), PublicKey: badKey}
	goodLog := ctlog.LogConfig{Log: newRemote(t, goodServer.URL), PublicKey: good.log.PublicKeyPEM()}

	both := newLogs(t, config(budget, badLog, goodLog))
	for range 7 {
		sub := good.draft(t).Submission
		sct, err := both.Add(t.Context(), sub)
		if err != nil {
			t.Fatal(err)
		}
		if err := good.key.Verify(sct, sub, now()); err != nil {
			t.Fatal(err)
		}
	}
	// A log that sends Retry-After was asked once, and any other until its breaker opened.
	status := both.Status()[0]
	if resting := status.Rest > 0; resting != strings.HasPrefix(name, "429") || !resting && status.State != breaker.Open {
		t.Errorf("after 7 submissions the log is %+v", status)
	}

	alone := newLogs(t, config(short, badLog))
	_, err := alone.Add(t.Context(), good.draft(t).Submission)
	var e *refusal.Error
	if !errors.As(err, &e) || e.Reason != refusal.CTUnavailable {
		t.Errorf("alone: error %v, want CT_UNAVAILABLE", err)
	}
	bad.log.Fail(nil)
	bad.log.Alter(nil)
}

func waitForGoroutines(t *testing.T, most int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > most {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), most, stacks[:runtime.Stack(stacks, true)])
		}
		runtime.Gosched()
	}
}
