// SPDX-License-Identifier: Apache-2.0

package testca_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

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
