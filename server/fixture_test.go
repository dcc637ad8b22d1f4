// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// goodV1 and goodV2 are correct requests of the APIs.
const (
	goodV1 = `{"publicKey":{"content":"S0VZ","algorithm":"ecdsa"},"signedEmailAddress":"AQID","certificateSigningRequest":null}`
	goodV2 = `{"credentials":{"oidcIdentityToken":"a.b.c"},"publicKeyRequest":{"publicKey":{"algorithm":"ECDSA","content":"KEY"},"proofOfPossession":"AQID"}}`
)

// csrRequest is a request with token and a CSR of three bytes.
func csrRequest(token string) *fulciov2.CreateSigningCertificateRequest {
	return &fulciov2.CreateSigningCertificateRequest{
		Credentials: &fulciov2.Credentials{Credentials: &fulciov2.Credentials_OidcIdentityToken{OidcIdentityToken: token}},
		Key:         &fulciov2.CreateSigningCertificateRequest_CertificateSigningRequest{CertificateSigningRequest: []byte("CSR")},
	}
}

// fixture is a Server over a fake authority, with its log.
type fixture struct {
	*Server
	issue  func(context.Context, ca.Request) (*ca.Issued, error) // by default, a certificate
	bundle func() []*ca.Chain
	log    logBuffer
}

// newFixture returns a fixture; change, if not nil, changes its Config first.
func newFixture(t testing.TB, change func(*Config)) *fixture {
	t.Helper()
	chain := fakeChain("intermediate", "root")
	f := &fixture{
		issue:  fixedIssue(&ca.Issued{Certificate: []byte("leaf"), Chain: chain, SCTEmbedded: true}),
		bundle: func() []*ca.Chain { return []*ca.Chain{chain} },
	}
	config := Config{
		Issue:       func(ctx context.Context, req ca.Request) (*ca.Issued, error) { return f.issue(ctx, req) },
		TrustBundle: func() []*ca.Chain { return f.bundle() },
		Issuers:     func() []IssuerInfo { return nil },
		Registry:    prometheus.NewRegistry(),
		Logger:      slog.New(slog.NewJSONHandler(&f.log, nil)),
	}
	if change != nil {
		change(&config)
	}
	var err error
	if f.Server, err = New(config); err != nil {
		t.Fatal(err)
	}
	return f
}

// fixedIssue returns the same certificate for every request.
func fixedIssue(issued *ca.Issued) func(context.Context, ca.Request) (*ca.Issued, error) {
	return func(context.Context, ca.Request) (*ca.Issued, error) { return issued, nil }
}

// refuse makes the authority refuse every request with err.
func (f *fixture) refuse(err error) {
	f.issue = func(context.Context, ca.Request) (*ca.Issued, error) { return nil, err }
}

// hold makes the authority wait: each request sends to entered, and is answered when release is
// closed.
func (f *fixture) hold() (entered, release chan struct{}) {
	entered, release = make(chan struct{}), make(chan struct{})
	answer := f.issue
	f.issue = func(ctx context.Context, req ca.Request) (*ca.Issued, error) {
		entered <- struct{}{}
		<-release // ignores its context
		return answer(ctx, req)
	}
	return entered, release
}

// do sends a request to a handler, the server's by default. headers are name, value, name, value.
func (f *fixture) do(t testing.TB, method, target, body string, headers ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "http://ca.example"+target, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, r)
	return w.Result()
}

// ops sends a GET to the ops handler.
func (f *fixture) ops(t *testing.T, target string) *http.Response {
	t.Helper()
	return f.profile(t, "GET", "localhost", target)
}

// metrics returns the lines of /metrics that begin with prefix.
func (f *fixture) metric(t *testing.T, prefix string) (lines string) {
	t.Helper()
	for line := range strings.Lines(readAll(t, f.ops(t, "/metrics"))) {
		if strings.HasPrefix(line, prefix) {
			lines += line
		}
	}
	return lines
}

// fakeChain is a chain of fake certificates, which do not parse.
func fakeChain(names ...string) *ca.Chain {
	c := &ca.Chain{}
	for _, name := range names {
		c.DER = append(c.DER, []byte(name))
		c.PEM = append(c.PEM, strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(name)}))))
	}
	c.JSON = strings.ReplaceAll(strings.Join(c.PEM, `","`), "\n", `\n`)
	return c
}

// logBuffer holds log records, one JSON object a line.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// request returns the access log's record of the request with this ID.
func (l *logBuffer) request(t testing.TB, id string) map[string]any {
	t.Helper()
	for line := range strings.Lines(l.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatal(err)
		}
		if record["msg"] == "request" && record["request_id"] == id {
			return record
		}
	}
	t.Fatalf("no record of request %q in %s", id, l)
	return nil
}

// readAll returns an answer's body.
func readAll(t testing.TB, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// checkRefusal checks all properties that every refusal over HTTP must have, and returns its
// message.
func checkRefusal(t testing.TB, resp *http.Response, reason refusal.Reason) string {
	t.Helper()
	if want := answers[reason.Kind()].http; resp.StatusCode != want || resp.Header.Get("Content-Type") != typeJSON {
		t.Errorf("HTTP status is %d with %s, want %d", resp.StatusCode, resp.Header.Get("Content-Type"), want)
	}
	var st spb.Status
	if err := protojson.Unmarshal([]byte(readAll(t, resp)), &st); err != nil {
		t.Fatal(err)
	}
	return checkStatus(t, status.FromProto(&st), resp.Header.Get("X-Request-Id"), reason)
}

// checkStatus checks all properties of the status of a refusal, and returns its message.
func checkStatus(t testing.TB, st *status.Status, id string, reason refusal.Reason) string {
	t.Helper()
	want := answers[reason.Kind()].code
	var gotReason, gotID string
	retry := false
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			gotReason = d.GetDomain() + " " + d.GetReason()
		case *errdetails.RequestInfo:
			gotID = d.GetRequestId()
		case *errdetails.RetryInfo:
			retry = d.GetRetryDelay().AsDuration() >= time.Second
		}
	}
	if st.Code() != want || gotReason != "mayfly-ca.dev "+string(reason) || gotID != id || id == "" || st.Message() == "" {
		t.Errorf("the status is %v with %q and ID %q; want %s for %q", st, gotReason, gotID, reason, id)
	}
	if kind := reason.Kind(); retry != (kind == refusal.SlowDown || kind == refusal.Unavailable) {
		t.Errorf("%s: RetryInfo is %t", reason, retry)
	}
	return st.Message()
}

// running is a fixture that serves on real sockets.
type running struct {
	*fixture
	http, grpc, opsAddress string
	roots                  *x509.CertPool
	stop                   func() error // begins shutdown, and returns what Serve returned
}

// serve runs a fixture, with or without TLS; gRPC has a separate port or HTTP's.
func serve(t testing.TB, shared, useTLS bool, change func(*Config)) *running {
	t.Helper()
	run := &running{}
	run.fixture = newFixture(t, func(c *Config) {
		if useTLS {
			c.TLS, run.roots = testTLS()
		}
		if change != nil {
			change(c)
		}
	})
	var l Listeners
	l.HTTP, run.http = listen(t)
	l.Ops, run.opsAddress = listen(t)
	l.GRPC, run.grpc = l.HTTP, run.http
	if !shared {
		l.GRPC, run.grpc = listen(t)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- run.Serve(ctx, l) }()
	stopped := false
	run.stop = func() error {
		stopped = true
		cancel()
		return <-served
	}
	t.Cleanup(func() {
		if !stopped {
			if err := run.stop(); err != nil {
				t.Errorf("Serve returned %v", err)
			}
		}
	})
	return run
}

func listen(t testing.TB) (net.Listener, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l, l.Addr().String()
}

// testTLS returns a server's configuration and the roots of a client. The certificate comes from
// GetCertificate, as for a certificate that is reloaded.
func testTLS() (*tls.Config, *x509.CertPool) {
	other := httptest.NewTLSServer(nil)
	defer other.Close()
	roots := x509.NewCertPool()
	roots.AddCert(other.Certificate())
	certificate := other.TLS.Certificates[0]
	return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &certificate, nil }}, roots
}

// client returns an HTTP client that uses only HTTP/1.1 or only HTTP/2, and the base URL of the
// server.
func (r *running) client(t testing.TB, http2 bool) (*http.Client, string) {
	t.Helper()
	protocols, scheme := new(http.Protocols), "http://"
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2 && r.roots != nil)
	protocols.SetUnencryptedHTTP2(http2 && r.roots == nil)
	if r.roots != nil {
		scheme = "https://"
	}
	transport := &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{RootCAs: r.roots}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}, scheme + r.http
}

// post requests a certificate.
func post(client *http.Client, base string) error {
	resp, err := client.Post(base+"/api/v2/signingCert", "", strings.NewReader(goodV2))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// dial returns a gRPC connection from a loopback address.
func (r *running) dial(t testing.TB, from string) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if r.roots != nil {
		creds = credentials.NewTLS(&tls.Config{RootCAs: r.roots})
	}
	conn, err := grpc.NewClient("passthrough:"+r.grpc, grpc.WithTransportCredentials(creds), grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) {
		return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(ctx, "tcp", to)
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// create requests a certificate over gRPC.
func (r *running) create(t testing.TB) error {
	t.Helper()
	_, err := fulciov2.NewCAClient(r.dial(t, "127.0.0.1")).CreateSigningCertificate(t.Context(), csrRequest("a.b.c"))
	return err
}

// pipeListener accepts the ends of pipes, which do not buffer, so that tests can use a bubble's time.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// open opens a connection and sends text.
func (l pipeListener) open(t *testing.T, text string) net.Conn {
	t.Helper()
	server, client := net.Pipe()
	l <- server
	if _, err := io.WriteString(client, text); err != nil {
		t.Error(err)
	}
	return client
}

// get sends a request without a body, whose answer can then be read.
func (l pipeListener) get(t *testing.T, method, path string) net.Conn {
	t.Helper()
	return l.open(t, method+" "+path+" HTTP/1.1\r\nHost: ca.example\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
}

// servePipes runs a fixture on pipes; stop ends it.
func (f *fixture) servePipes(t *testing.T) (pipes pipeListener, stop func()) {
	pipes = make(pipeListener)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Serve(ctx, Listeners{HTTP: pipes}) }()
	return pipes, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
