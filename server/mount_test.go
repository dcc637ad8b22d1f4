// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ca"
)

// echo answers with the path that it gets.
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

// pipeListener accepts the ends of pipes, which do not buffer.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// get sends a request and returns the client's end, from which the answer can be read.
func (l pipeListener) get(t *testing.T, method, path string) net.Conn {
	t.Helper()
	server, client := net.Pipe()
	l <- server
	if _, err := io.WriteString(client, method+" "+path+" HTTP/1.1\r\nHost: ca.example\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return client
}

// TestReadersThatDoNotRead: such clients take only the few places of reads, and lose them after
// some seconds.
func TestReadersThatDoNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) {
			c.Limits.InFlight = 64 // four places for reads
			c.Mounts = []Mount{{Path: "/ctlog/a/", Name: "ctlog", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					_, _ = w.Write(make([]byte, 1<<20))
				}
			})}}
		})
		pipes := make(pipeListener)
		edge := &http.Server{Handler: f.Handler(), ReadHeaderTimeout: time.Second, WriteTimeout: time.Minute}
		done := make(chan error, 1)
		go func() { done <- edge.Serve(pipes) }()
		status := func(method, path string) int {
			client := pipes.get(t, method, path)
			defer func() { _ = client.Close() }()
			answer, err := http.ReadResponse(bufio.NewReader(client), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = answer.Body.Close() }()
			if n, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode == http.StatusOK && method == http.MethodGet && n < 100 {
				t.Errorf("%s %s: %d bytes, %v", method, path, n, err)
			}
			if answer.StatusCode == http.StatusTooManyRequests && answer.Header.Get("Retry-After") == "" {
				t.Error("a read without a place has no Retry-After")
			}
			return answer.StatusCode
		}
		var readers []net.Conn
		for range 2 { // one client gets half of the places
			readers = append(readers, pipes.get(t, "GET", "/ctlog/a/x"))
		}
		synctest.Wait()
		if got := status("GET", "/ctlog/a/x"); got != http.StatusTooManyRequests {
			t.Errorf("a read beyond the places: %d", got)
		}
		if got := status("POST", "/ctlog/a/x"); got != http.StatusOK {
			t.Errorf("a submission while all places of reads are taken: %d", got)
		}
		if got := status("GET", "/api/v1/rootCert"); got != http.StatusOK {
			t.Errorf("the API while all places of reads are taken: %d", got)
		}
		// A reader that reads a piece in time keeps its place; the other one does not.
		time.Sleep(stall - time.Second)
		if _, err := io.CopyN(io.Discard, readers[0], 2*piece); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if got := status("GET", "/ctlog/a/x"); got != http.StatusOK {
			t.Errorf("a read after a reader was cut off: %d", got)
		}
		if n, err := io.Copy(io.Discard, readers[0]); err != nil || n < 1<<20-2*piece {
			t.Errorf("a slow reader got %d bytes more: %v", n, err)
		}
		if logged := f.log.String(); !strings.Contains(logged, `"reason":"CANCELED"`) {
			t.Errorf("the access log does not say that an answer was cut off:\n%s", logged)
		}
		for _, c := range readers {
			_ = c.Close()
		}
		_ = edge.Close()
		<-done
	})
}

// TestReadersTakeNoPlaceOfACertificate: a client that does not read the answer of an API holds no
// place while its answer waits.
func TestReadersTakeNoPlaceOfACertificate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, func(c *Config) { c.Limits.InFlight = 8 })
		chain := fakeChain(strings.Repeat("intermediate", 1<<12), "root") // more than net/http buffers
		f.authority.bundle = func() []*ca.Chain { return []*ca.Chain{chain} }
		pipes := make(pipeListener)
		edge := &http.Server{Handler: f.Handler(), ReadHeaderTimeout: time.Second, WriteTimeout: time.Minute}
		done := make(chan error, 1)
		go func() { done <- edge.Serve(pipes) }()
		var readers []net.Conn
		for i := range 20 {
			readers = append(readers, pipes.get(t, "GET", []string{"/api/v2/trustBundle", "/api/v1/rootCert"}[i%2]))
		}
		synctest.Wait()
		if n := len(f.slots); n != 0 {
			t.Errorf("20 clients that do not read keep %d of 8 places", n)
		}
		// They still get complete answers, but only within a time limit.
		answer, err := io.ReadAll(readers[0])
		if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) || len(answer) < 12<<12 {
			t.Errorf("a slow reader got %d bytes: %v", len(answer), err)
		}
		time.Sleep(stall + time.Second)
		synctest.Wait()
		if answer, _ := io.ReadAll(readers[1]); len(answer) > 12<<12 {
			t.Error("a client that read nothing for a long time was not cut off")
		}
		for _, c := range readers {
			_ = c.Close()
		}
		_ = edge.Close()
		<-done
	})
}

// TestSteadyWriterWritesEverything: writing in pieces does not change an answer.
func TestSteadyWriterWritesEverything(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, piece, piece + 1, 3 * piece} {
		recorder := httptest.NewRecorder()
		w := &steadyWriter{ResponseWriter: recorder, control: http.NewResponseController(recorder), end: time.Now().Add(time.Hour)}
		if n, err := w.Write(bytes.Repeat([]byte("x"), size)); n != size || err != nil || recorder.Body.Len() != size {
			t.Errorf("%d bytes: %d, %v; %d arrived", size, n, err, recorder.Body.Len())
		}
	}
}
