// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	ct "github.com/google/certificate-transparency-go"
)

// maxRootsResponse bounds the answer to get-roots; logs of the web's PKI list hundreds.
const maxRootsResponse = 8 << 20

// Roots asks the log which roots it accepts (RFC 6962, section 4.7), each as DER.
func (r *Remote) Roots(ctx context.Context) ([][]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.name+ct.GetRootsPath, nil)
	if err != nil {
		return nil, fmt.Errorf("making get-roots request: %w", err)
	}
	req.Header.Set("User-Agent", "mayfly")
	r.authorize(req)
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the log %s for its roots: %w", r.name, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxRootsResponse+1))
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("asking the log %s for its roots: %w", r.name, r.statusError(resp, answer))
	case err != nil:
		return nil, fmt.Errorf("reading the roots of the log %s: %w", r.name, err)
	case len(answer) > maxRootsResponse:
		return nil, fmt.Errorf("the log %s lists more than %d bytes of roots", r.name, maxRootsResponse)
	}
	var roots struct {
		Certificates [][]byte `json:"certificates"`
	}
	if err := json.Unmarshal(answer, &roots); err != nil {
		return nil, fmt.Errorf("parsing the roots of the log %s: %w", r.name, err)
	}
	return roots.Certificates, nil
}
