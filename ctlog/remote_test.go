// SPDX-License-Identifier: Apache-2.0

package ctlog_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"

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
	f := newFixture(t, nil)
	base := serve(t, http.StripPrefix("/logs/2026", f.log)) + "/logs/2026"
	for _, url := range []string{base, base + "/"} {
		remote := newRemote(t, url)
		if remote.Name() != base {
			t.Errorf("name %q, want %q", remote.Name(), base)
		}
		sub := f.submission(t)
		sct, err := remote.Submit(t.Context(), sub)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.key.Verify(sct, sub, now()); err != nil {
			t.Error(err)
		}
	}
	entries, err := f.log.Entries()
	if err != nil || len(entries) != 2 || len(entries[0].Chain) != 2 || !bytes.Equal(entries[0].Chain[1].Data, f.authority.Root.Raw) {
		t.Errorf("the log has the entries %v, %v; want 2, each with its root", entries, err)
	}
}

func TestRemoteSubmitOverTLS(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	server := httptest.NewTLSServer(f.log)
	t.Cleanup(server.Close)
	sub := f.submission(t)

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
	altered := func(alter func(*ct.AddChainResponse)) string {
		resp := &ct.AddChainResponse{ID: make([]byte, 32), Timestamp: 1, Signature: []byte{4, 3, 0, 1, 0x30}}
		alter(resp)
		body, err := json.Marshal(resp)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	sub := newFixture(t, nil).submission(t)
	for name, test := range map[string]struct {
		status int
		body   string
	}{
		"good":                 {200, altered(func(*ct.AddChainResponse) {})},
		"HTML with 200":        {200, "<!DOCTYPE html><title>It works</title>"},
		"nothing with 200":     {200, ""},
		"JSON null":            {200, "null"},
		"JSON with a tail":     {200, altered(func(*ct.AddChainResponse) {}) + "{}"},
		"huge body with 200":   {200, altered(func(*ct.AddChainResponse) {}) + strings.Repeat(" ", 1<<16)},
		"huge body with 500":   {500, strings.Repeat("A", 1<<20)},
		"500":                  {500, "database \x1b[31mdown"},
		"400":                  {400, "unknown root"},
		"201":                  {201, altered(func(*ct.AddChainResponse) {})},
		"redirect":             {307, ""},
		"version 2":            {200, altered(func(r *ct.AddChainResponse) { r.SCTVersion = 1 })},
		"short log ID":         {200, altered(func(r *ct.AddChainResponse) { r.ID = r.ID[:31] })},
		"long log ID":          {200, altered(func(r *ct.AddChainResponse) { r.ID = make([]byte, 33) })},
		"extensions no base64": {200, altered(func(r *ct.AddChainResponse) { r.Extensions = "*" })},
		"SHA-1 signature":      {200, altered(func(r *ct.AddChainResponse) { r.Signature[0] = 2 })},
		"RSA signature":        {200, altered(func(r *ct.AddChainResponse) { r.Signature[1] = 1 })},
		"signature cut":        {200, altered(func(r *ct.AddChainResponse) { r.Signature = r.Signature[:4] })},
		"signature with tail":  {200, altered(func(r *ct.AddChainResponse) { r.Signature = append(r.Signature, 0) })},
		"no signature":         {200, altered(func(r *ct.AddChainResponse) { r.Signature = nil })},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mux := http.NewServeMux()
			mux.HandleFunc("POST /ct/v1/add-pre-chain", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			})
			mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") })
			_, err := newRemote(t, serve(t, mux)).Submit(t.Context(), sub)
			if (err == nil) != (name == "good") || errors.As(err, new(*ctlog.RetryableError)) {
				t.Errorf("error %v", err)
			}
			var status *ctlog.StatusError
			if isStatus := errors.As(err, &status); isStatus != (test.status != 200) || isStatus && status.StatusCode != test.status || len(fmt.Sprint(err)) > 500 || strings.Contains(fmt.Sprint(err), "\x1b") {
				t.Errorf("error %v, want status %d, short and quoted", err, test.status)
			}
		})
	}
}

// Package httputil tests the forms of Retry-After.
func TestRemoteHonoursRetryAfter(t *testing.T) {
	t.Parallel()
	sub := newFixture(t, nil).submission(t)
	for status, test := range map[int]struct {
		header string
		want   time.Duration
	}{429: {"3", 3 * time.Second}, 503: {now().Add(4750 * time.Millisecond).Format(http.TimeFormat), 4750 * time.Millisecond}} {
		url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", test.header)
			w.WriteHeader(status)
		}))
		_, err := newRemote(t, url).Submit(t.Context(), sub)
		var retryable *ctlog.RetryableError
		if !errors.As(err, &retryable) || retryable.After != test.want || !errors.As(err, new(*ctlog.StatusError)) {
			t.Errorf("%d: error %v, want one to repeat after %s", status, err, test.want)
		}
	}
}

func TestRemoteConnectionErrors(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	sub := f.submission(t)
	cut := func(begin string) string {
		return serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if begin != "" {
				w.Header().Set("Content-Length", "100")
				_, _ = io.WriteString(w, begin)
				_ = http.NewResponseController(w).Flush()
			}
			panic(http.ErrAbortHandler)
		}))
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, test := range map[string]struct {
		url   string
		retry bool
	}{
		"no listener": {gone.URL, true}, "cut before an answer": {cut(""), true}, "cut within an answer": {cut("{"), false},
	} {
		if _, err := newRemote(t, test.url).Submit(t.Context(), sub); err == nil || errors.As(err, new(*ctlog.RetryableError)) != test.retry {
			t.Errorf("%s: error %v, want a retryable one: %v", name, err, test.retry)
		}
	}
	// A log hangs until the context ends, before its answer and within it.
	for _, begin := range []string{"", "{"} {
		ctx, cancel := context.WithCancel(t.Context())
		f.log.Fail(func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = io.WriteString(w, begin)
			_ = http.NewResponseController(w).Flush()
			cancel()
			return testlog.Hang(w, r)
		})
		_, err := newRemote(t, serve(t, f.log)).Submit(ctx, sub)
		if !errors.Is(err, context.Canceled) || errors.As(err, new(*ctlog.RetryableError)) {
			t.Errorf("error %v, want context.Canceled that is not to be repeated", err)
		}
	}
}

// TestRemoteEndsWithItsContext: the goroutine of a request waits for Submit where there is one log,
// so that Submit must not outlive its context in any stage.
func TestRemoteEndsWithItsContext(t *testing.T) {
	t.Parallel()
	sub := newFixture(t, nil).submission(t)
	// serveRaw calls answer on each connection, which stays open until the test ends.
	serveRaw := func(t *testing.T, answer func(net.Conn)) string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				t.Cleanup(func() { _ = conn.Close() })
				go answer(conn)
			}
		}()
		return listener.Addr().String()
	}
	for name, test := range map[string]struct {
		scheme string
		body   int // of the precertificate
		answer string
	}{
		"TLS handshake":       {"https://", 0, ""},
		"answer":              {"http://", 0, ""},
		"header":              {"http://", 0, "HTTP/1.1 200 OK\r\nContent-"},
		"body":                {"http://", 0, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"},
		"body of chunks":      {"http://", 0, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{"},
		"a full send buffer":  {"http://", 16 << 20, "-"},
		"an answer meanwhile": {"http://", 16 << 20, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			address := serveRaw(t, func(conn net.Conn) {
				_, _ = conn.Read(make([]byte, 1)) // the rest is never read
				if test.answer != "-" {
					_, _ = io.WriteString(conn, test.answer)
				}
				cancel()
			})
			sub := sub
			if test.body > 0 {
				sub.Chain = [][]byte{make([]byte, test.body)}
			}
			_, err := newRemote(t, test.scheme+address).Submit(ctx, sub)
			if !errors.Is(err, context.Canceled) || errors.As(err, new(*ctlog.RetryableError)) {
				t.Errorf("error %v, want context.Canceled that is not to be repeated", err)
			}
		})
	}
}

// A log may close an idle connection at the moment when a submission is sent on it. The submission is
// then sent again, with its body.
func TestRemoteSubmitsAgainOnAClosedConnection(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	var requests atomic.Int64
	remote := newRemote(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header["Idempotency-Key"] != nil {
			t.Error("the log has received an Idempotency-Key")
		}
		if requests.Add(1) == 2 {
			panic(http.ErrAbortHandler)
		}
		f.log.ServeHTTP(w, r)
	})))
	for range 2 {
		sub := f.submission(t)
		sct, err := remote.Submit(t.Context(), sub)
		if err == nil {
			err = f.key.Verify(sct, sub, now())
		}
		if err != nil {
			t.Error(err)
		}
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

// A log receives the header and the body of a submission with one write, and nothing that it does not
// need.
func TestRemoteRequest(t *testing.T) {
	t.Parallel()
	sub := newFixture(t, nil).submission(t)
	sub.Chain[0] = make([]byte, 3000)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	remote, _, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: "http://" + listener.Addr().String() + "/2026", Token: []byte("secret")})
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		buffer := make([]byte, 64<<10)
		n, _ := conn.Read(buffer)
		received <- string(buffer[:n])
	}()
	_, _ = remote.Submit(t.Context(), sub)
	body, err := json.Marshal(ct.AddChainRequest{Chain: sub.Chain})
	if err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll(fmt.Sprintf(`POST /2026/ct/v1/add-pre-chain HTTP/1.1
Host: %s
User-Agent: mayfly
Content-Length: %d
Accept: application/json
Authorization: Bearer secret
Content-Type: application/json

`, listener.Addr(), len(body)), "\n", "\r\n") + string(body)
	if got := <-received; got != want {
		t.Errorf("the request is:\n%.2000s\nwant:\n%.2000s", got, want)
	}
}

func TestRemoteSubmitOverHTTP2(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("the request has %s", r.Proto)
		}
		f.log.ServeHTTP(w, r)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	remote, _, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: server.URL, RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remote.CloseIdleConnections)
	sub := f.submission(t)
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			sct, err := remote.Submit(t.Context(), sub)
			if err == nil {
				err = f.key.Verify(sct, sub, now())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
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
	sub := f.submission(t)
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
	content, err := os.ReadFile("testdata/urls.txt")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(content), "\n"); n < 25 {
		t.Errorf("there are %d lines only", n)
	}
	for line := range strings.Lines(string(content)) {
		url, want, _ := strings.Cut(strings.TrimSpace(line), " ")
		if url == "#" {
			continue
		}
		remote, warnings, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: strings.TrimPrefix(url, "-")})
		got := "refused"
		if err == nil {
			got = strings.Repeat("warning ", len(warnings)) + remote.Name()
		} else if strings.Contains(err.Error(), "secret") || !slices.Equal(keypath.All(err)[0].Path, []string{"url"}) {
			t.Errorf("%s: %v", url, err)
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", url, got, want)
		}
	}
	if _, _, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: "http://log.example", Token: []byte("secret")}); err == nil {
		t.Error("a token would be sent without TLS")
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
	answer, err := f.log.Submit(b.Context(), f.submission(b))
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
	sub := f.submission(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := remote.Submit(b.Context(), sub); err != nil {
			b.Fatal(err)
		}
	}
}
