// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

const (
	probeTimeout  = 2 * time.Second // limits each check
	watchInterval = 5 * time.Second // the longest time between two runs of the checks
)

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
	// Runbook is the section of the documents that states what to do, as in docs/ct.md#a-log-fails.
	Runbook string
}

// report is the result of the checks at one moment.
type report struct {
	Status string       `json:"status"`
	Checks []CheckState `json:"checks,omitempty"`
	since  time.Time    // of Status
}

// CheckState is the result of one check. What follows Detail is on ops only.
type CheckState struct {
	Name     string `json:"name"`
	State    string `json:"state"` // "ok" or "failed"
	Critical bool   `json:"critical"`
	Detail   string `json:"detail,omitempty"`
	Error    string `json:"error,omitempty"`
	History
	Runbook string `json:"runbook,omitempty"`
}

// Failed reports whether the check fails.
func (c CheckState) Failed() bool { return c.State != "ok" }

// health reports whether the server is ready. The checks run at most once an interval, however many
// requests ask.
type health struct {
	checks   []Check // the last one is that of draining
	logger   *slog.Logger
	interval time.Duration // how long a report is reused
	started  time.Time
	stopping chan struct{} // closed when shutdown begins
	leaving  chan struct{} // closed after half of the grace
	draining chan struct{} // closed when the drain begins

	turn chan struct{} // holds an element while a caller owns last and at; the checks run meanwhile
	last report
	at   time.Time // of last
}

func newHealth(checks []Check, logger *slog.Logger) *health {
	h := &health{
		logger: logger, interval: time.Second, started: time.Now().UTC(),
		stopping: make(chan struct{}), leaving: make(chan struct{}), draining: make(chan struct{}), turn: make(chan struct{}, 1),
	}
	h.checks = append(slices.Clone(checks), Check{Name: "draining", Critical: true, Probe: h.probeDraining, Runbook: "docs/operations.md#shutdown-and-rollouts"})
	h.last = report{Status: serving, since: h.started}
	for _, c := range h.checks {
		h.last.Checks = append(h.last.Checks, CheckState{Name: c.Name, State: "ok", History: History{Since: h.started}})
	}
	return h
}

// watch runs the checks every watchInterval, and when the shutdown begins, until ctx ends: a report
// states since when, although no client asked then.
func (h *health) watch(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for stopping := h.stopping; ; {
		select {
		case <-ticker.C:
		case <-stopping:
			stopping = nil
		case <-ctx.Done():
			return
		}
		h.report(ctx)
	}
}

// report returns the result of the checks, which is less than an interval old. They run concurrently,
// and do not fail when the caller disconnects. The caller must not change the report's Checks.
func (h *health) report(ctx context.Context) report {
	h.turn <- struct{}{}
	defer func() { <-h.turn }()
	stopping := isClosed(h.stopping) && h.last.Status == serving
	if h.at.IsZero() || time.Since(h.at) >= h.interval || stopping {
		h.run(ctx)
	}
	return h.last
}

// run runs the checks. The caller owns last and at.
func (h *health) run(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
	defer cancel()
	next := report{Status: serving, Checks: make([]CheckState, len(h.checks))}
	var wg sync.WaitGroup
	for i, c := range h.checks {
		wg.Go(func() { next.Checks[i] = c.run(ctx) })
	}
	wg.Wait()
	h.at = time.Now()
	for i := range next.Checks {
		c, last := &next.Checks[i], h.last.Checks[i]
		if c.Since = last.Since; c.State != last.State {
			c.Since = h.at.UTC()
			h.logChange(ctx, *c)
		}
		if c.Failed() {
			c.LastError, c.LastErrorAt = c.Error, h.at.UTC()
		} else {
			c.LastError, c.LastErrorAt = last.LastError, last.LastErrorAt
		}
		if c.Critical && c.Failed() {
			next.Status = notServing
		}
	}
	if next.since = h.last.since; next.Status != h.last.Status {
		next.since = h.at.UTC()
	}
	h.last = next
}

// logChange logs that a critical check fails, or passes again.
func (h *health) logChange(ctx context.Context, c CheckState) {
	switch name := slog.String("check", c.Name); {
	case !c.Critical, isClosed(h.stopping):
	case c.Failed():
		h.logger.LogAttrs(ctx, slog.LevelError, "not ready: a critical check fails", name, slog.String("error", c.Error))
	default:
		h.logger.LogAttrs(ctx, slog.LevelInfo, "a critical check has recovered", name)
	}
}

// probeDraining fails while the server shuts down.
func (h *health) probeDraining(context.Context) (string, error) {
	switch {
	case isClosed(h.draining):
		return "no new connections", errDraining
	case isClosed(h.stopping):
		return "not ready any more, and still serving", errDraining
	}
	return "the server stays", nil
}

var errDraining = errors.New("the server shuts down")

// run runs one check. A panic is a failure.
func (c Check) run(ctx context.Context) CheckState {
	r := CheckState{Name: c.Name, State: "ok", Critical: c.Critical, Runbook: c.Runbook}
	err := recovered(func() (err error) {
		r.Detail, err = c.Probe(ctx)
		return err
	})
	if err != nil {
		r.State, r.Error = "failed", clip(err.Error())
	}
	return r
}

// serveHealth answers a request for health, and reports whether it was one:
//
//	/livez    the process answers
//	/healthz  ready or not, as in grpc.health.v1
//	/readyz   the same; with ?verbose every check
//	/status   the State, on ops only
//
// A server that is not ready answers 503, but for /status. The text of a check's error is for ops only, and for a Host that
// no foreign web site can have: a browser could reach ops, too.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request, q *request, path string, ops bool) bool {
	switch {
	case path == "/livez", path == "/healthz", path == "/readyz":
	case path == "/status" && ops:
	default:
		return false
	}
	done, err := checkVerb(w, r, http.MethodGet)
	foreign := s.checkHost(r.Host, true)
	if err == nil && path == "/status" {
		err = foreign
	}
	if done {
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
	if rep.Status != serving && path != "/status" {
		httpStatus = http.StatusServiceUnavailable
	}
	rep.Checks = slices.Clone(rep.Checks) // the original is shared
	if path != "/readyz" || !r.URL.Query().Has("verbose") {
		rep.Checks = nil
	}
	for i := range rep.Checks {
		if c := &rep.Checks[i]; !ops || foreign != nil {
			c.Error, c.Runbook, c.History = "", "", History{}
		}
	}
	var answer any = rep
	if path == "/status" {
		answer = s.State(r.Context())
	}
	body, _ := json.Marshal(answer) // holds texts, numbers and times, so this cannot fail
	w.Header().Set("Cache-Control", "no-store")
	q.write(w, httpStatus, typeJSON, body)
	return true
}
