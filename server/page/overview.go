// SPDX-License-Identifier: Apache-2.0

package page

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/server"
)

// overview is the state of the server with what follows from it.
type overview struct {
	server.State
	Issued, Refused uint64 // in the last hour
	Line            timeline
}

func (p *pages) overview(w http.ResponseWriter, r *http.Request) {
	o := overview{State: p.State(r.Context())}
	o.Line = newTimeline(o.Authorities, o.At)
	for _, c := range o.Certificates {
		o.Issued += c.Hour
	}
	for _, c := range o.Refusals {
		o.Refused += c.Hour
	}
	limited := func(l server.LimitState) bool { return part(l.InUse, l.Limit) >= 80 }
	v := view{Title: "Serving", Tone: "good", Refresh: r.URL.Query().Get("refresh") != "off", Now: o.At.UTC(), Data: o}
	switch {
	case o.Status != "SERVING":
		v.Title, v.Tone = "Not serving", "bad"
	case slices.ContainsFunc(o.Checks, server.CheckState.Failed), slices.ContainsFunc(o.Limits, limited), o.RestartPending, o.KernelClock == "unsynchronised":
		v.Title, v.Tone = "Serving, with problems", "warn"
	}
	p.show(w, http.StatusOK, "overview", v)
}

// timeline is the drawing of the authorities. Places and widths are percentages, so that its text has
// one size at every width.
type timeline struct {
	Now    float64
	Height int
	Ticks  []string // at equal distances
	Rows   []row
}

type row struct {
	Y        int
	ID, Text string // Text states what the bars show
	Bars     []bar
}

type bar struct {
	State    string
	X, Width float64
}

const (
	rowHeight = 44 // in pixels
	maxRows   = 20
)

// newTimeline draws authorities. One without times, such as that of ca.file, signs until its chain ends.
func newTimeline(authorities []server.Component, now time.Time) (t timeline) {
	authorities = authorities[:min(len(authorities), maxRows)]
	first, last := now, now.Add(time.Hour)
	for _, a := range authorities {
		for _, at := range []time.Time{a.PublishAt, a.ActivateAt, a.SignsUntil, a.ChainEnds} {
			if !at.IsZero() && at.Before(first) {
				first = at
			}
			if at.After(last) {
				last = at
			}
		}
	}
	first = first.Add(-last.Sub(first) / 25)
	place := func(at time.Time) float64 { return 100 * float64(at.Sub(first)) / float64(last.Sub(first)) }
	for i, a := range authorities {
		r := row{Y: i * rowHeight, ID: a.Name}
		signs, ends := cmp.Or(a.ActivateAt, a.PublishAt, first), cmp.Or(a.SignsUntil, a.ChainEnds)
		times := []time.Time{cmp.Or(a.PublishAt, signs), signs, ends, a.ChainEnds}
		for i, state := range []string{"published", "active", "retired"} {
			if from, to := times[i], times[i+1]; to.After(from) {
				r.Bars = append(r.Bars, bar{state, place(from), place(to) - place(from)})
				r.Text += fmt.Sprintf("%s from %s to %s; ", state, from.Format(time.DateOnly), to.Format(time.DateOnly))
			}
		}
		t.Rows = append(t.Rows, r)
	}
	for third := range 4 {
		t.Ticks = append(t.Ticks, first.Add(last.Sub(first)/3*time.Duration(third)).Format(time.DateOnly))
	}
	t.Now, t.Height = place(now), len(t.Rows)*rowHeight
	return t
}
