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
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

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
	edge, err := server.New(server.Config{
		Issue:       w.CA.Issue,
		TrustBundle: w.CA.TrustBundle,
		Issuers:     func() []server.IssuerInfo { return nil },
		Registry:    prometheus.NewRegistry(),
		Logger:      slog.New(slog.NewJSONHandler(io.Discard, nil)),
	})
	if err != nil {
		b.Fatal(err)
	}
	listening := httptest.NewServer(edge.Handler())
	b.Cleanup(listening.Close)
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	b.Cleanup(transport.CloseIdleConnections)
	c := &restClient{url: listening.URL + "/api/v2/signingCert", token: w.Token(b, nil), http: &http.Client{Transport: transport}}
	challenge := w.Request(b, c.token, "person@example.com").Proof.(proof.SignedChallenge)
	c.body, err = json.Marshal(map[string]any{"publicKeyRequest": map[string]any{
		"publicKey": map[string]any{"content": string(challenge.PublicKey)}, "proofOfPossession": challenge.Signature,
	}})
	if err != nil {
		b.Fatal(err)
	}
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
	for name, curve := range curves() {
		b.Run(name, func(b *testing.B) {
			c := newRESTClient(b, testca.New(b, testca.Builder{Curve: curve, LogInProcess: true}))
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := c.ask(b.Context()); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkEmbedded measures a whole issuance over REST v2 with the embedded log and a P-256
// CA, both ends on this machine: latency and throughput, beside the cost of one fsync here.
func BenchmarkEmbedded(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			log := newEmbeddedLog(b)
			c := newRESTClient(b, testca.New(b, testca.Builder{Curve: elliptic.P256(), CT: log, CTPublicKey: log.PublicKey()}))
			latencies := make([]time.Duration, b.N)
			var next atomic.Int64
			done := make(chan error, clients)
			b.ResetTimer()
			for range clients {
				go func() {
					for {
						i := next.Add(1) - 1
						if i >= int64(b.N) {
							done <- nil
							return
						}
						start := time.Now()
						if err := c.ask(b.Context()); err != nil {
							done <- err
							return
						}
						latencies[i] = time.Since(start)
					}
				}()
			}
			for range clients {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			slices.Sort(latencies)
			b.ReportMetric(latencies[b.N/2].Seconds()*1000, "p50-ms")
			b.ReportMetric(latencies[b.N*99/100].Seconds()*1000, "p99-ms")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "certificates/s")
			b.ReportMetric(fsyncTime(b).Seconds()*1000, "fsync-ms")
		})
	}
}

func newEmbeddedLog(b *testing.B) *embedded.Log {
	b.Helper()
	embedded.RouteTesseraLogs(slog.New(slog.DiscardHandler)) // its lines would appear among the figures
	dir := b.TempDir()
	init := embedded.Config{
		Name: "bench", Dir: filepath.Join(dir, "log"), Guard: filepath.Join(dir, "guard.json"), Key: filepath.Join(dir, "key.pem"), Origin: "log.example/bench",
	}
	if _, err := embedded.Init(b.Context(), init); err != nil {
		b.Fatal(err)
	}
	log, err := embedded.Open(b.Context(), embedded.Config{Name: init.Name, Dir: init.Dir, Guard: init.Guard, Key: init.Key, Origin: init.Origin})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := log.Shutdown(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return log
}

// fsyncTime returns the median time to write and fsync a small file.
func fsyncTime(b *testing.B) time.Duration {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "fsync"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	times := make([]time.Duration, 51)
	for i := range times {
		start := time.Now()
		if _, err := f.WriteAt([]byte("fsync"), 0); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		times[i] = time.Since(start)
	}
	slices.Sort(times)
	return times[len(times)/2]
}
