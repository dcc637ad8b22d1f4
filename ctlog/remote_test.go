// SPDX-License-Identifier: Apache-2.0

package ctlog_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

func newRemote(t testing.TB, url string) *ctlog.Remote {
	t.Helper()
	remote, warnings, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: url, Now: now})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	t.Cleanup(remote.CloseIdleConnections)
	return remote
}

func serve(t testing.TB, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

func TestRemoteSubmit(t *testing.T) {
	t.Parallel()
	for name, leafIndex := range map[string]bool{"RFC 6962": false, "static-ct-api": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, func(c *testlog.Config) { c.LeafIndex = leafIndex })
			base := serve(t, http.StripPrefix("/logs/2026", f.log)) + "/logs/2026"
			for _, url := range []string{base, base + "/"} {
				remote := newRemote(t, url)
				if remote.Name() != base {
					t.Errorf("name %q, want %q", remote.Name(), base)
				}
				sub := f.draft(t).Submission
				sct, err := remote.Submit(t.Context(), sub)
				if err != nil {
					t.Fatal(err)
				}
				if err := f.key.Verify(sct, sub, now()); err != nil {
					t.Error(err)
				}
			}
			entries, err := f.log.Entries()
			if err != nil || len(entries) != 2 {
				t.Fatalf("the log has %d entries, %v; want 2", len(entries), err)
			}
			if len(entries[0].Chain) != 2 || !bytes.Equal(entries[0].Chain[1].Data, f.authority.Root.Raw) {
				t.Error("the chain came without its root")
			}
		})
	}
}

func TestRemoteSubmitOverTLS(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	server := httptest.NewTLSServer(f.log)
	t.Cleanup(server.Close)
	sub := f.draft(t).Submission

	// No root certifies the server's certificate: a retry cannot help.
	_, err := newRemote(t, server.URL).Submit(t.Context(), sub)
	var retryable *ctlog.RetryableError
	if err == nil || errors.As(err, &retryable) {
		t.Errorf("unknown certificate: %v", err)
	}

	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	remote, _, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: server.URL, RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remote.CloseIdleConnections)
	if _, err := remote.Submit(t.Context(), sub); err != nil {
		t.Error(err)
	}
}

func TestRemoteRefusesBadAnswers(t *testing.T) {
	t.Parallel()
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	altered := func(alter func(*ct.AddChainResponse)) http.HandlerFunc {
		resp := &ct.AddChainResponse{ID: make([]byte, 32), Timestamp: 1, Signature: []byte{4, 3, 0, 1, 0x30}}
		alter(resp)
		body, err := json.Marshal(resp)
		if err != nil {
			t.Fatal(err)
		}
		return answer(200, string(body))
	}
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		status  int // of the *StatusError; 0 for another error
		want    string
	}{
		"HTML with 200":        {answer(200, "<!DOCTYPE html><title>It works</title>"), 0, "parsing the log's answer"},
		"nothing with 200":     {answer(200, ""), 0, "parsing the log's answer"},
		"JSON null":            {answer(200, "null"), 0, "id has 0 bytes"},
		"JSON with a tail":     {answer(200, "{}{}"), 0, "parsing the log's answer"},
		"huge body with 200":   {answer(200, `{"id":"`+strings.Repeat("A", 1<<20)+`"}`), 0, "more than 65536 bytes"},
		"huge body with 500":   {answer(500, strings.Repeat("A", 1<<20)), 500, `500 Internal Server Error: "AAAA`},
		"500":                  {answer(500, "database \x1b[31mdown"), 500, `database \x1b[31mdown`},
		"400":                  {answer(400, "unknown root"), 400, "unknown root"},
		"201":                  {answer(201, "{}"), 201, "201 Created"},
		"redirect":             {http.RedirectHandler("/elsewhere", http.StatusTemporaryRedirect).ServeHTTP, 307, "307 Temporary Redirect"},
		"version 2":            {altered(func(r *ct.AddChainResponse) { r.SCTVersion = 1 }), 0, "sct_version is 1"},
		"short log ID":         {altered(func(r *ct.AddChainResponse) { r.ID = r.ID[:31] }), 0, "id has 31 bytes"},
		"long log ID":          {altered(func(r *ct.AddChainResponse) { r.ID = make([]byte, 33) }), 0, "id has 33 bytes"},
		"extensions no base64": {altered(func(r *ct.AddChainResponse) { r.Extensions = "*" }), 0, "extensions: illegal base64"},
		"SHA-1 signature":      {altered(func(r *ct.AddChainResponse) { r.Signature[0] = 2 }), 0, "hash 2 and algorithm 3"},
		"RSA signature":        {altered(func(r *ct.AddChainResponse) { r.Signature[1] = 1 }), 0, "hash 4 and algorithm 1"},
		"signature cut":        {altered(func(r *ct.AddChainResponse) { r.Signature = r.Signature[:4] }), 0, "signature ends early"},
		"signature with tail":  {altered(func(r *ct.AddChainResponse) { r.Signature = append(r.Signature, 0) }), 0, "more data follows"},
		"no signature":         {altered(func(r *ct.AddChainResponse) { r.Signature = nil }), 0, "signature ends early"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var elsewhere atomic.Bool
			mux := http.NewServeMux()
			mux.HandleFunc("POST /ct/v1/add-pre-chain", test.handler)
			mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { elsewhere.Store(true) })
			f := newFixture(t, nil)
			_, err := newRemote(t, serve(t, mux)).Submit(t.Context(), f.draft(t).Submission)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			var status *ctlog.StatusError
			if errors.As(err, &status) != (test.status != 0) || status != nil && status.StatusCode != test.status {
				t.Errorf("error %v, want status %d", err, test.status)
			}
			var retryable *ctlog.RetryableError
			if errors.As(err, &retryable) {
				t.Errorf("error %v is to be repeated", err)
			}
			if elsewhere.Load() {
				t.Error("a redirect was followed")
			}
		})
	}
}

func TestRemoteHonoursRetryAfter(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		status int
		header string
		want   time.Duration
	}{
		"429 in seconds":        {429, "3", 3 * time.Second},
		"503 with a date":       {503, now().Add(4750 * time.Millisecond).Format(http.TimeFormat), 4750 * time.Millisecond},
		"503 with a past date":  {503, now().Add(-time.Hour).Format(http.TimeFormat), 0},
		"503 without a header":  {503, "", 0},
		"429 with a negative":   {429, "-1", 0},
		"429 with words":        {429, "soon", 0},
		"429 with a huge value": {429, "99999999999999999999", math.MaxInt32 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", test.header)
				w.WriteHeader(test.status)
			}))
			_, err := newRemote(t, url).Submit(t.Context(), newFixture(t, nil).draft(t).Submission)
			var (
				retryable *ctlog.RetryableError
				status    *ctlog.StatusError
			)
			if !errors.As(err, &retryable) || !errors.As(err, &status) {
				t.Fatalf("error %v, want *RetryableError and *StatusError", err)
			}
			if retryable.After != test.want || status.StatusCode != test.status {
				t.Errorf("after %s with status %d, want %s with %d", retryable.After, status.StatusCode, test.want, test.status)
			}
		})
	}
}

func TestRemoteConnectionErrors(t *testing.T) {
	t.Parallel()
	sub := newFixture(t, nil).draft(t).Submission

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	var retryable *ctlog.RetryableError
	for name, test := range map[string]struct {
		url   string
		retry bool
	}{
		"no listener":          {"http://" + listener.Addr().String(), true},
		"cut before an answer": {serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })), true},
		"cut within an answer": {serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "{")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})), false},
	} {
		if _, err := newRemote(t, test.url).Submit(t.Context(), sub); err == nil || errors.As(err, &retryable) != test.retry {
			t.Errorf("%s: error %v, want a retryable one: %v", name, err, test.retry)
		}
	}
	t.Run("hanging until the context ends", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t, nil)
		entered := make(chan struct{})
		f.log.Fail(func(w http.ResponseWriter, r *http.Request) bool {
			close(entered)
			return testlog.Hang(w, r)
		})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-entered; cancel() }()
		_, err := newRemote(t, serve(t, f.log)).Submit(ctx, sub)
		var retryable *ctlog.RetryableError
		if !errors.Is(err, context.Canceled) || errors.As(err, &retryable) {
			t.Errorf("error %v, want context.Canceled that is not to be repeated", err)
		}
	})
}

// A busy server must not open a connection for each submission.
func TestRemoteKeepsConnectionsWarm(t *testing.T) {
	t.Parallel()
	const clients, rounds = 64, 4
	f := newFixture(t, nil)
	var opened atomic.Int64
	server := httptest.NewUnstartedServer(f.log)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	remote := newRemote(t, server.URL)
	sub := f.draft(t).Submission
	for range rounds {
		var group sync.WaitGroup
		for range clients {
			group.Go(func() {
				if _, err := remote.Submit(t.Context(), sub); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
	}
	// net/http may open one connection more than a request needs when many start at once.
	if n := opened.Load(); n > 2*clients {
		t.Errorf("%d connections for %d clients", n, clients)
	}
}

func TestNewRemoteURL(t *testing.T) {
	t.Parallel()
	for url, test := range map[string]struct{ name, warning, err string }{
		"https://log.example/2026":                        {name: "https://log.example/2026"},
		"https://log.example/2026//":                      {name: "https://log.example/2026"},
		"HTTPS://log.example:8443":                        {name: "https://log.example:8443"},
		"https://[2001:db8::1]:443/a%2Fb/":                {name: "https://[2001:db8::1]:443/a%2Fb"},
		"http://127.0.0.1:6962":                           {name: "http://127.0.0.1:6962"},
		"http://[::1]:6962":                               {name: "http://[::1]:6962"},
		"http://localhost/log":                            {name: "http://localhost/log"},
		"http://ctlog.ct.svc":                             {name: "http://ctlog.ct.svc", warning: "without TLS"},
		"http://localhost.example":                        {name: "http://localhost.example", warning: "without TLS"},
		"http://10.0.0.1":                                 {name: "http://10.0.0.1", warning: "without TLS"},
		"":                                                {err: "is missing"},
		"log.example/2026":                                {err: "should begin with https://"},
		"log.example:443":                                 {err: "should begin with https://"},
		"ftp://log.example":                               {err: "should begin with https://"},
		"https://":                                        {err: "has no host"},
		"https:///path":                                   {err: "has no host"},
		"https://:443/path":                               {err: "has no host"},
		"https:log.example":                               {err: "has no host"},
		"https://user:secret@log.example":                 {err: "user name or password"},
		"https://user@log.example":                        {err: "user name or password"},
		"https://log.example?a=b":                         {err: "query or a fragment"},
		"https://log.example/?":                           {err: "query or a fragment"},
		"https://log.example/#top":                        {err: "query or a fragment"},
		"https://log.example/#":                           {err: "query or a fragment"},
		"https://log.example/2026/ct/v1":                  {err: `give "https://log.example/2026" alone`},
		"https://log.example/2026/ct/v1/add-pre-chain":    {err: `give "https://log.example/2026" alone`},
		"https://log.example/a b\x00":                     {err: "cannot be read"},
		"https://log.example/%zz":                         {err: "cannot be read"},
		"https://log.example/ct/v10":                      {name: "https://log.example/ct/v10"},
		"https://log.example:port":                        {err: "cannot be read"},
		"https://" + strings.Repeat("a", 1000) + "@" + "": {err: "user name or password"},
	} {
		remote, warnings, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: url})
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: error %v, want one with %q", url, err, test.err)
				continue
			}
			if diff := cmp.Diff([]string{"url"}, keypath.All(err)[0].Path); diff != "" {
				t.Errorf("%q: path of the error:\n%s", url, diff)
			}
			continue
		}
		if err != nil || remote.Name() != test.name {
			t.Errorf("%q: error %v", url, err)
			continue
		}
		if test.warning == "" && len(warnings) > 0 || test.warning != "" && (len(warnings) != 1 || !strings.Contains(warnings[0].Error(), test.warning)) {
			t.Errorf("%q: warnings %v, want %q", url, warnings, test.warning)
		}
	}
}

func FuzzNewRemoteURL(f *testing.F) {
	for _, seed := range []string{"https://log.example/2026/", "http://[::1]/a%2Fb", "https://a?b#c", "https://a/ct/v1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		remote, _, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: raw})
		if err != nil {
			return
		}
		u, err := url.Parse(remote.Name())
		if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.HasSuffix(u.Path, "/") {
			t.Errorf("%q became %q, %v", raw, remote.Name(), err)
		}
		again, _, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: remote.Name()})
		if err != nil || again.Name() != remote.Name() {
			t.Errorf("%q became %q, which becomes %v, %v", raw, remote.Name(), again, err)
		}
	})
}

func BenchmarkRemoteSubmit(b *testing.B) {
	f := newFixture(b, func(c *testlog.Config) { c.Unchecked = true })
	answer, err := f.log.Submit(b.Context(), f.draft(b).Submission)
	if err != nil {
		b.Fatal(err)
	}
	body, err := json.Marshal(ct.AddChainResponse{
		ID: answer.LogID[:], Timestamp: answer.Timestamp,
		Signature: append([]byte{4, 3, 0, byte(len(answer.Signature))}, answer.Signature...),
	})
	if err != nil {
		b.Fatal(err)
	}
	remote := newRemote(b, serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = w.Write(body)
	})))
	sub := f.draft(b).Submission
	b.ReportAllocs()
	for b.Loop() {
		if _, err := remote.Submit(b.Context(), sub); err != nil {
			b.Fatal(err)
		}
	}
}
