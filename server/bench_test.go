// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// benchFixture is a fixture with an authority that costs nothing and realistic sizes: a token of
// 1.2 kB, a chain of three certificates, and an access log.
func benchFixture(b *testing.B) (*fixture, string) {
	f := newFixture(b, func(c *Config) { c.Logger = slog.New(slog.NewJSONHandler(io.Discard, nil)) })
	certificate := strings.Repeat("c", 600)
	issued := &ca.Issued{Certificate: []byte(certificate), Chain: fakeChain(certificate, certificate), SCTEmbedded: true}
	f.issue = fixedIssue(issued)
	body := strings.Replace(goodV2, "a.b.c", strings.Repeat("t", 1200), 1)
	return f, body
}

// BenchmarkREST measures the cost of the edge in an issuance over REST, without net/http itself.
func BenchmarkREST(b *testing.B) {
	for _, tt := range []struct{ name, method, path string }{
		{"v2 signingCert", "POST", "/api/v2/signingCert"},
		{"v1 signingCert", "POST", "/api/v1/signingCert"},
		{"v2 trustBundle", "GET", "/api/v2/trustBundle"},
	} {
		b.Run(tt.name, func(b *testing.B) {
			f, body := benchFixture(b)
			h := f.Handler()
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(tt.method, tt.path, strings.NewReader(body))
				if strings.Contains(tt.path, "v1") {
					r.Header.Set("Authorization", "Bearer a.b.c")
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code >= 300 {
					b.Fatal(w.Body)
				}
			}
		})
	}
}

// BenchmarkGRPC measures a whole call over a socket, both sides, with an authority that costs
// nothing, over a port that HTTP shares and over gRPC's own.
func BenchmarkGRPC(b *testing.B) {
	for _, shared := range []bool{true, false} {
		b.Run(fmt.Sprintf("shared=%t", shared), func(b *testing.B) {
			run := serve(b, shared, false, func(c *Config) { c.Logger = slog.New(slog.NewJSONHandler(io.Discard, nil)) })
			certificate := strings.Repeat("c", 600)
			run.issue = fixedIssue(&ca.Issued{Certificate: []byte(certificate), Chain: fakeChain(certificate, certificate), SCTEmbedded: true})
			client, req := fulciov2.NewCAClient(run.dial(b, "127.0.0.1")), csrRequest(strings.Repeat("t", 1200))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.CreateSigningCertificate(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
