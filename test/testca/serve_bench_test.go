// SPDX-License-Identifier: Apache-2.0

package testca_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/ctlog/embedded"
	"github.com/mayfly-ca/mayfly/proof"
	"github.com/mayfly-ca/mayfly/server"
	"github.com/mayfly-ca/mayfly/test/testca"
)

// restClient repeatedly requests the same certificate from one server.
type restClient struct {
	url, token string
	body       []byte
	http       *http.Client
}

// newRESTClient serves the world over a loopback socket until the benchmark ends.
func newRESTClient(b *testing.B, w *testca.World) *restClient {
	b.Helper()
	edge := must(server.New(server.Config{
		Issue:       w.CA.Issue,
		TrustBundle: w.CA.TrustBundle,
		Issuers:     func() []server.IssuerInfo { return nil },
		Registry:    prometheus.NewRegistry(),
		Logger:      slog.New(slog.NewJSONHandler(io.Discard, nil)),
	}))(b)
	listening := httptest.NewServer(edge.Handler())
	b.Cleanup(listening.Close)
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	b.Cleanup(transport.CloseIdleConnections)
	c := &restClient{url: listening.URL + "/api/v2/signingCert", token: w.Token(b, nil), http: &http.Client{Transport: transport}}
	challenge := w.Request(b, c.token, "person@example.com").Proof.(proof.SignedChallenge)
	c.body = must(json.Marshal(map[string]any{"publicKeyRequest": map[string]any{
		"publicKey": map[string]any{"content": string(challenge.PublicKey)}, "proofOfPossession": challenge.Signature,
	}}))(b)
	return c
}

func (c *restClient) ask(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(c.body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("the answer is %s: %s", response.Status, answer)
	}
	return err
}

// BenchmarkServe measures a whole REST v2 request over a loopback socket, including both ends
// and the log's signature, on every core.
func BenchmarkServe(b *testing.B) {
	forCurves(b, func(b *testing.B, curve elliptic.Curve) {
		c := newRESTClient(b, testca.New(b, testca.Builder{Curve: curve, LogInProcess: true}))
		inParallel(b, 8, func() error { return c.ask(b.Context()) })
	})
}

// BenchmarkEmbedded measures a whole issuance over REST v2 with the embedded log and a P-256
// CA, both ends on this machine: latency and throughput.
func BenchmarkEmbedded(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			log := newEmbeddedLog(b)
			c := newRESTClient(b, testca.New(b, testca.Builder{CT: log, CTPublicKey: log.PublicKey()}))
			b.ResetTimer()
			took := repeat(b, b.N, clients, func() error { return c.ask(b.Context()) })
			b.StopTimer()
			reportPercentiles(b, took)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "certificates/s")
		})
	}
}

func newEmbeddedLog(b *testing.B) *embedded.Log {
	b.Helper()
	embedded.RouteTesseraLogs(slog.New(slog.DiscardHandler)) // its lines would appear among the figures
	dir := b.TempDir()
	config := embedded.Config{
		Name: "bench", Dir: filepath.Join(dir, "log"), Guard: filepath.Join(dir, "guard.json"), Key: filepath.Join(dir, "key.pem"), Origin: "log.example/bench",
	}
	must(embedded.Init(b.Context(), config))(b)
	log := must(embedded.Open(b.Context(), config))(b)
	b.Cleanup(func() {
		if err := log.Shutdown(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return log
}
