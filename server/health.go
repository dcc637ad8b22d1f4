// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// probeTimeout limits each check.
const probeTimeout = 2 * time.Second

// The states of the server, with their names in grpc.health.v1.
const (
	serving    = "SERVING"
	notServing = "NOT_SERVING"
)

// Check is one condition of readiness.
type Check struct {
	// Name names the checked component, such as "ct-log".
	Name string
	// Probe returns nil if the check passes. Every client can read its detail; its error is shown
	// on the ops listener only. Probe must return when ctx ends. It is never called concurrently
	// with itself.
	Probe func(ctx context.Context) (detail string, err error)
	// Critical makes the server not ready while the probe fails. Other failures are shown in the
	// report only.
	Critical bool
}

// report is the result of the checks at one moment.
type report struct {
	Status string        `json:"status"`
	Checks []checkReport `json:"checks,omitempty"`
}

// checkReport is the result of one check.
type checkReport struct {
	Name     string `json:"name"`
	State    string `json:"state"` // "ok" or "failed"
	Critical bool   `json:"critical"`
	Detail   string `json:"detail,omitempty"`
	Error    string `json:"error,omitempty"` // on ops only
}

// health reports whether the server is ready. The checks run at most once an interval, however many
// requests ask.
type health struct {
	checks   []Check
	interval time.Duration // how long a report is reused
	stopping chan struct{} // closed when shutdown begins
	leaving  chan struct{} // closed after half of the grace
	draining chan struct{} // closed when the drain begins

	turn chan struct{} // holds an element while a caller owns last and at; the checks run meanwhile
	last report
	at   time.Time // of last
}

func newHealth(checks []Check) *health {
	return &health{
		checks: checks, interval: time.Second,
		stopping: make(chan struct{}), leaving: make(chan struct{}), draining: make(chan struct{}), turn: make(chan struct{}, 1),
	}
}

// report returns the result of the checks, which is less than an interval old. They run concurrently,
// and do not fail when the caller disconnects. The caller must not change the report's Checks.
func (h *health) report(ctx context.Context) report {
	h.turn <- struct{}{}
	defer func() { <-h.turn }()
	if h.at.IsZero() || time.Since(h.at) >= h.interval {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
		defer cancel()
		h.last = report{Status: serving, Checks: make([]checkReport, len(h.checks))}
		var wg sync.WaitGroup
		for i, c := range h.checks {
			wg.Go(func() { h.last.Checks[i] = c.run(ctx) })
		}
		wg.Wait()
		if slices.ContainsFunc(h.last.Checks, func(c checkReport) bool { return c.Critical && c.State != "ok" }) {
			h.last.Status = notServing
		}
		h.at = time.Now()
	}
	r := h.last
	if isClosed(h.stopping) {
		r.Status = notServing
	}
	return r
}

// run runs one check. A panic is a failure.
func (c Check) run(ctx context.Context) checkReport {
	r := checkReport{Name: c.Name, State: "ok", Critical: c.Critical}
	err := recovered(func() (err error) {
		r.Detail, err = c.Probe(ctx)
		return err
	})
	if err != nil {
		r.State, r.Error = "failed", err.Error()
	}
	return r
}

// serveHealth answers a request for health, and reports whether it was one:
//
//	/livez    the process answers
//	/healthz  ready or not, as in grpc.health.v1
//	/readyz   the same; with ?verbose every check
//
// A server that is not ready answers 503. The text of a check's error is for ops only.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request, q *request, path string, ops bool) bool {
	switch path {
	case "/livez", "/healthz", "/readyz":
	default:
		return false
	}
	if done, err := checkVerb(w, r, http.MethodGet); done {
		return true
	} else if err != nil {
		q.refuse(w, refusal.From(err))
		return true
	}
	rep := report{Status: serving}
	if path != "/livez" {
		rep = s.health.report(r.Context())
	}
	httpStatus := http.StatusOK
	if rep.Status != serving {
		httpStatus = http.StatusServiceUnavailable
	}
	rep.Checks = slices.Clone(rep.Checks) // the original is shared
	if path != "/readyz" || !r.URL.Query().Has("verbose") {
		rep.Checks = nil
	}
	for i := range rep.Checks {
		if !ops {
			rep.Checks[i].Error = ""
		}
	}
	body, _ := json.Marshal(rep) // holds strings and booleans, so this cannot fail
	w.Header().Set("Cache-Control", "no-store")
	q.write(w, httpStatus, typeJSON, body)
	return true
}
