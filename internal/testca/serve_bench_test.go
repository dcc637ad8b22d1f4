// SPDX-License-Identifier: Apache-2.0

package testca_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/internal/testca"
	"github.com/mayfly-ca/mayfly/proof"
	"github.com/mayfly-ca/mayfly/server"
)

// BenchmarkServe is a whole REST v2 request over a loopback socket, both ends and the log's
// signature included, on every core.
func BenchmarkServe(b *testing.B) {
	for name, curve := range curves() {
		b.Run(name, func(b *testing.B) {
			w := testca.New(b, testca.Builder{Curve: curve, LogInProcess: true})
			edge, err := server.New(server.Config{
				Authority: w.CA,
				Issuers:   func() []server.IssuerInfo { return nil },
				Registry:  prometheus.NewRegistry(),
				Logger:    slog.New(slog.NewJSONHandler(io.Discard, nil)),
			})
			if err != nil {
				b.Fatal(err)
			}
			listening := httptest.NewServer(edge.Handler())
			b.Cleanup(listening.Close)
			token := w.Token(b, nil)
			challenge := w.Request(b, token, "person@example.com").Proof.(proof.SignedChallenge)
			body, err := json.Marshal(map[string]any{"publicKeyRequest": map[string]any{
				"publicKey": map[string]any{"content": string(challenge.PublicKey)}, "proofOfPossession": challenge.Signature,
			}})
			if err != nil {
				b.Fatal(err)
			}
			transport := &http.Transport{MaxIdleConnsPerHost: 64}
			b.Cleanup(transport.CloseIdleConnections)
			client := &http.Client{Transport: transport}
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					request, err := http.NewRequestWithContext(b.Context(), http.MethodPost, listening.URL+"/api/v2/signingCert", bytes.NewReader(body))
					if err != nil {
						b.Error(err)
						return
					}
					request.Header.Set("Authorization", "Bearer "+token)
					response, err := client.Do(request)
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
					if response.StatusCode != http.StatusOK {
						b.Errorf("the answer is %s", response.Status)
						return
					}
				}
			})
		})
	}
}
