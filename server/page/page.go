// SPDX-License-Identifier: Apache-2.0

// Package page shows the state of the server to the browser of its operator, as HTML without script: an
// overview, a search of the logs with a view of a certificate, and the configuration in use. The ops
// listener serves it behind the checks of package server. Only package app may import it.
//
// Only the answer to a search has an identity. Foreign text, such as the error of an issuer, is escaped
// by html/template, and characters that are invisible or change the direction are shown as escapes.
package page

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/printable"
	"github.com/mayfly-ca/mayfly/server"
)

// Config states what is shown.
type Config struct {
	State    func(context.Context) server.State
	Settings []Setting          // of the configuration in use, without secrets
	Logs     []Log              // that can be searched
	Chains   func() []*ca.Chain // the trust bundle
}

// Setting is a key of the configuration, its value, and where the value comes from.
type Setting struct{ Key, Value, Source string }

// headers let a page load only what it serves itself, and keep it out of caches and frames.
var headers = []string{
	"Content-Security-Policy",
	"default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
	"X-Content-Type-Options", "nosniff", "Referrer-Policy", "no-referrer", "Cache-Control", "no-store",
	"Cross-Origin-Resource-Policy", "same-origin", "Cross-Origin-Opener-Policy", "same-origin",
}

//go:embed *.html style.css
var content embed.FS

type pages struct {
	Config
	templates *template.Template
	reading   chan struct{} // holds an element while a log is read
}

// New returns the handler of / and of what is below /page/.
func New(cfg Config) http.Handler {
	p := &pages{Config: cfg, reading: make(chan struct{}, 1)}
	functions := template.FuncMap{"start": start, "number": number, "path": path, "part": part}
	p.templates = template.Must(template.New("").Funcs(functions).ParseFS(content, "*.html"))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.overview)
	mux.HandleFunc("GET /page/search", p.search)
	mux.HandleFunc("GET /page/certificate", p.certificate)
	mux.HandleFunc("GET /page/configuration", func(w http.ResponseWriter, _ *http.Request) {
		p.show(w, http.StatusOK, "configuration", view{Title: "Configuration", Data: p.Settings})
	})
	mux.HandleFunc("GET /page/style.css", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, content, "style.css") })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for pair := range slices.Chunk(headers, 2) {
			w.Header().Set(pair[0], pair[1])
		}
		mux.ServeHTTP(w, r)
	})
}

// view is what a template shows.
type view struct {
	Title   string
	Tone    string // good, warn or bad; "" for a page without a verdict
	Refresh bool
	Now     time.Time
	Data    any
}

// When returns a time for the template "when": for a program, for a person, and from now; nil for zero.
func (v view) When(t time.Time) []string {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	layout := "2006-01-02 15:04"
	if t.Format(time.DateOnly) == v.Now.Format(time.DateOnly) {
		layout = time.TimeOnly
	}
	return []string{t.Format(time.RFC3339), t.Format(layout), printable.Relative(t, v.Now)}
}

// Of returns v with other data.
func (v view) Of(data any) view {
	v.Data = data
	return v
}

// show answers with a page.
func (p *pages) show(w http.ResponseWriter, status int, name string, v view) {
	if v.Now.IsZero() {
		v.Now = time.Now().UTC()
	}
	var page bytes.Buffer
	if err := p.templates.ExecuteTemplate(&page, name, v); err != nil { // no data can cause this
		http.Error(w, "the page cannot be rendered", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = printable.NewWriter(w).Write(page.Bytes()) // an error means that the browser has disconnected
}

// start returns the first n bytes of a text.
func start(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}

// number returns a whole number with its digits in groups.
func number(n any) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// part returns n in percent of a limit.
func part(n, limit int) float64 { return 100 * float64(n) / float64(max(limit, 1)) }

// path returns the line of an SVG, 59 wide and 20 high, for the counts of minutes.
func path(minutes [60]uint64) string {
	top, line := max(slices.Max(minutes[:]), 1), "M"
	for i, n := range minutes {
		line += fmt.Sprintf("%d %.1fL", i, 19-18*float64(n)/float64(top))
	}
	return strings.TrimSuffix(line, "L")
}
