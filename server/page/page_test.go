// SPDX-License-Identifier: Apache-2.0

package page

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/server"
)

// The first heading is the verdict, and each problem is listed.
func TestVerdict(t *testing.T) {
	t.Parallel()
	change := func(f func(*server.State)) server.State { s := quiet(); f(&s); return s }
	for _, c := range []struct {
		name  string
		state server.State
		want  []string
		not   string
	}{
		{"quiet", quiet(), []string{"<title>Serving · mayfly", `class="verdict good"`}, "problem</span>"},
		{"noisy", noisy(), []string{"<title>Serving, with problems ·", `class="verdict warn"`, "<strong>issuers</strong>", "<strong>configuration file</strong>", "<strong>limits.in_flight</strong>"}, "not ready</span>"},
		{"down", down(), []string{"<title>Not serving ·", `class="verdict bad"`, "<strong>ca</strong>", "docs/signers.md#a-key-is-unavailable", "permission denied"}, `class="verdict warn"`},
		{"clock", change(func(s *server.State) { s.KernelClock = "unsynchronised" }), []string{"with problems", "<strong>clock</strong>"}, "not ready</span>"},
		{"no log", change(func(s *server.State) { s.Logs = nil }), []string{"Certificates are in no log."}, "problem</span>"},
		{"empty", server.State{At: at, Status: "SERVING"}, []string{"<title>Serving ·", "None since the start."}, "problem</span>"},
	} {
		body := get(t, of(c.state), "/").Body.String()
		for _, want := range c.want {
			if !strings.Contains(body, want) {
				t.Errorf("%s: the page lacks %q", c.name, want)
			}
		}
		if strings.Contains(body, c.not) {
			t.Errorf("%s: the page has %q", c.name, c.not)
		}
	}
	// What makes the server not ready comes before other problems.
	if body := get(t, of(down()), "/").Body.String(); strings.Index(body, "<strong>ca<") > strings.Index(body, "<strong>issuers<") {
		t.Error("a problem comes before what makes the server not ready")
	}
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]bool{"/": true, "/?refresh=off": false, "/page/search": false, "/page/configuration": false} {
		if got := strings.Contains(get(t, of(quiet()), target).Body.String(), `http-equiv="refresh"`); got != want {
			t.Errorf("%s loads again: %t", target, got)
		}
	}
}

func TestHeadersAndPaths(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]int{
		"/": 200, "/page/search": 200, "/page/configuration": 200, "/page/style.css": 200, "/page/certificate": 404,
		"/page/certificate?log=x&index=1": 404, "/page/": 404, "/page/page.html": 404, "/page/../page.html": 307, "/x": 404,
	} {
		w := get(t, of(quiet()), target)
		if w.Code != want {
			t.Errorf("%s: status %d, want %d", target, w.Code, want)
		}
		h := w.Header()
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
			"X-Content-Type-Options":  "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if h.Get(name) != want {
				t.Errorf("%s: %s is %q", target, name, h.Get(name))
			}
		}
		// The policy permits none of these.
		for _, forbidden := range []string{"<script", "<style", " style=", "javascript:", " onclick", "http://", "ZgotmplZ"} {
			body := strings.ReplaceAll(w.Body.String(), "xmlns='http://", "")
			if strings.HasSuffix(h.Get("Content-Type"), "html; charset=utf-8") && strings.Contains(body, forbidden) {
				t.Errorf("%s has %q", target, forbidden)
			}
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		w := httptest.NewRecorder()
		New(of(quiet())).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/", nil))
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s: status %d", method, w.Code)
		}
	}
}

const hostile = "</td></bdi>\"'><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\u200b\x00\x1b[2J\u2066javascript:alert(1)&amp;"

// fill sets every text below v that an outsider or another server could choose.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + hostile)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			fill(v.Index(i))
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			v.SetMapIndex(reflect.ValueOf(key.String()+hostile), v.MapIndex(key))
		}
	}
}

// Nothing foreign is markup, and what is invisible or turns text around is shown as an escape.
func TestForeignTextIsEscaped(t *testing.T) {
	t.Parallel()
	s := down()
	fill(reflect.ValueOf(&s).Elem())
	cfg := of(s)
	cfg.Settings = []Setting{{hostile, hostile, hostile}}
	cfg.Logs = []Log{{Name: hostile}, {Name: "other"}}
	cfg.Logs[0].Open, cfg.Logs[1].Open = fails, fails
	query := "identity=" + escaped(hostile) + "&issuer=" + escaped(hostile) + "&log=" + escaped(hostile)
	for _, target := range []string{"/", "/?refresh=" + escaped(hostile), "/page/configuration", "/page/search?" + query, "/page/certificate?index=1&" + query} {
		body := get(t, cfg, target).Body.String()
		if !strings.Contains(body, "&lt;script&gt;") && !strings.HasPrefix(target, "/?") {
			t.Errorf("%s does not show the text", target)
		}
		for _, forbidden := range []string{"<script", "<img", "</td></bdi>\"", "\u202e", "\u200b", "\u2066", "\x00", "\x1b", "href=\"javascript:", "ZgotmplZ"} {
			if strings.Contains(body, forbidden) {
				t.Errorf("%s has %q", target, forbidden)
			}
		}
	}
	if body := get(t, cfg, "/").Body.String(); !strings.Contains(body, `\u202e`) {
		t.Error("a change of direction is not shown")
	}
}

// The page of a server with as many issuers, and as long errors, as there can be has a bounded size.
func TestSizeIsBounded(t *testing.T) {
	t.Parallel()
	s := quiet()
	long := server.History{Since: at, LastError: strings.Repeat("<\u202e>", 4<<10), LastErrorAt: at}
	for i := range 10_000 {
		s.Issuers = append(s.Issuers, server.Component{Name: fmt.Sprintf("https://%s.example/%d", strings.Repeat("a", 60), i), Kind: "static", State: "failing", Failures: 9, LastSuccess: at, History: long})
	}
	for i := range 50 {
		s.Certificates = append(s.Certificates, server.CountState{Name: fmt.Sprintf("https://%s.example/%d", strings.Repeat("a", 200), i), Total: 1 << 60})
	}
	if n := get(t, of(s), "/").Body.Len(); n > 500_000 {
		t.Errorf("the page has %d bytes", n)
	}
}

// The time line has every authority in it, whatever its times.
func TestTimeline(t *testing.T) {
	t.Parallel()
	for name, authorities := range map[string][]server.Component{
		"none": nil, "set": quiet().Authorities,
		"a file":  {{Name: "file", State: "active", ChainEnds: at.Add(365 * day)}},
		"expired": {{Name: "old", State: "expired", PublishAt: at.Add(-20 * day), ActivateAt: at.Add(-19 * day), ChainEnds: at.Add(-day)}},
		"odd":     {{Name: "odd", PublishAt: at.Add(9 * day), ActivateAt: at.Add(-9 * day), SignsUntil: at.Add(-99 * day), ChainEnds: at}, {}},
	} {
		line := newTimeline(authorities, at)
		if line.Now < 0 || line.Now > 100 || len(line.Rows) != len(authorities) {
			t.Errorf("%s: %+v", name, line)
		}
		for _, r := range line.Rows {
			for _, b := range r.Bars {
				if b.X < 0 || b.Width <= 0 || b.X+b.Width > 100.001 {
					t.Errorf("%s: %+v is outside", name, b)
				}
			}
		}
	}
	rows := newTimeline(quiet().Authorities, at).Rows
	for i, want := range []string{"published active retired", "published active", "published active retired"} {
		var states []string
		for _, b := range rows[i].Bars {
			states = append(states, b.State)
		}
		if got := strings.Join(states, " "); got != want {
			t.Errorf("%s: %s, want %s", rows[i].ID, got, want)
		}
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for n, want := range map[any]string{0: "0", 999: "999", 1000: "1,000", uint64(1234567): "1,234,567"} {
		if got := number(n); got != want {
			t.Errorf("%v is %s", n, got)
		}
	}
	var counts server.CountState
	counts.Minutes[59] = 4
	if got := path(counts.Minutes); !strings.HasPrefix(got, "M0 19.0L1 19.0L") || !strings.HasSuffix(got, "L58 19.0L59 1.0") {
		t.Errorf("the line is %s", got)
	}
	if got := start("ab\u20ac", 3); got != "ab…" {
		t.Errorf("the start is %q", got)
	}
	v := view{Now: at}
	if when := v.When(at.Add(-time.Hour)); when[1] != "01:14:30" || v.When(at.Add(-day))[1] != "2026-11-29 02:14" || v.When(time.Time{}) != nil {
		t.Errorf("times are %v", when)
	}
}

// The fixtures have the form of GET /status: a key that they lack would be untested here.
func TestFixturesAreComplete(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(down())
	if err != nil {
		t.Fatal(err)
	}
	var keys map[string]any
	if err := json.Unmarshal(text, &keys); err != nil {
		t.Fatal(err)
	}
	for key, value := range keys {
		if value == nil || value == "" || value == 0.0 {
			t.Errorf("%s is empty", key)
		}
	}
}
