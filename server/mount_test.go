// SPDX-License-Identifier: Apache-2.0

package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// echo answers with the path that it sees.
func echo(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, name+" "+r.Method+" "+r.URL.Path)
	})
}

func TestMounts(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) {
		c.Mounts = []Mount{
			{Path: "/ctlog/a/", Name: "ctlog", Handler: echo("a")},
			{Path: "/ctlog/a/b/", Name: "ctlog", Handler: echo("b")},
			{Path: "/trusted_root.json", Name: "trust", Handler: echo("t")},
			{Path: "/panics/", Name: "panics", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret") })},
		}
	})
	for _, test := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/ctlog/a/tile/0/000", 200, "a GET /tile/0/000"},
		{"POST", "//ctlog/a/ct/v1/add-chain", 200, "a POST /ct/v1/add-chain"},
		{"GET", "/ctlog/a/b/x", 200, "b GET /x"},
		{"GET", "/trusted_root.json", 200, "t GET /trusted_root.json"},
		{"GET", "/trusted_root.json/x", 404, "NOT_FOUND"},
		{"GET", "/ctlog/", 404, "NOT_FOUND"},
		{"GET", "/panics/", 500, "INTERNAL"},
	} {
		w := httptest.NewRecorder()
		f.Handler().ServeHTTP(w, httptest.NewRequest(test.method, test.path, nil))
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.want) {
			t.Errorf("%s %s: got %d %s, want %d with %q", test.method, test.path, w.Code, w.Body, test.status, test.want)
		}
		if w.Header().Get("X-Request-Id") == "" {
			t.Errorf("%s %s: the answer has no request ID", test.method, test.path)
		}
		if strings.Contains(w.Body.String(), "secret") {
			t.Error("a panic's text reaches the client")
		}
	}
}

func TestNewRefusesMounts(t *testing.T) {
	t.Parallel()
	for _, mounts := range [][]Mount{
		{{Path: "/", Name: "x", Handler: echo("")}},
		{{Path: "/api/v2/", Name: "x", Handler: echo("")}},
		{{Path: "ctlog/", Name: "x", Handler: echo("")}},
		{{Path: "/ctlog/", Name: "x"}},
		{{Path: "/ctlog/", Handler: echo("")}},
		{{Path: "/ctlog/", Name: "x", Handler: echo("")}, {Path: "/ctlog/", Name: "y", Handler: echo("")}},
	} {
		f := newFixture(t, nil)
		f.config.Mounts = mounts
		f.config.Registry = prometheus.NewRegistry()
		if _, err := New(f.config); err == nil || !strings.Contains(err.Error(), "mount") {
			t.Errorf("the mounts %+v: got error %v", mounts, err)
		}
	}
}

// TestMountsAreLoggedAsTheyAnswer: a refused token must not look like a success.
func TestMountsAreLoggedAsTheyAnswer(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) {
		c.Mounts = []Mount{{Path: "/ctlog/a/", Name: "ctlog", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/refused" {
				w.WriteHeader(http.StatusForbidden)
			}
			_, _ = io.WriteString(w, "answer")
		})}}
	})
	for _, test := range []struct{ path, reason string }{{"/ctlog/a/fine", "OK"}, {"/ctlog/a/refused", "HTTP_403"}} {
		f.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, test.path, nil))
		if logged := f.log.String(); !strings.Contains(logged, `"reason":"`+test.reason+`"`) {
			t.Errorf("%s: the access log does not say %s:\n%s", test.path, test.reason, logged)
		}
	}
}
