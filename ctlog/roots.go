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

// maxRootsResponse bounds the answer to get-roots; logs of the Web PKI list hundreds.
const maxRootsResponse = 8 << 20

// Roots asks the log which roots it accepts (RFC 6962, section 4.7), each as DER.
func (r *Remote) Roots(ctx context.Context) ([][]byte, error) {
	answer, err := r.get(ctx, ct.GetRootsPath, maxRootsResponse)
	if err != nil {
		return nil, fmt.Errorf("asking the log %s for its roots: %w", r.name, err)
	}
	var roots struct {
		Certificates [][]byte `json:"certificates"`
	}
	if err := json.Unmarshal(answer, &roots); err != nil {
		return nil, fmt.Errorf("parsing the roots of the log %s: %w", r.name, err)
	}
	return roots.Certificates, nil
}

// VerifyTreeHead asks the log for its newest tree head (RFC 6962, section 4.3), and verifies it
// with key. A head that another key signed is an *InvalidHeadError; a log without get-sth, such
// as a static-ct-api log, is a *StatusError.
func (r *Remote) VerifyTreeHead(ctx context.Context, key *PublicKey) error {
	answer, err := r.get(ctx, ct.GetSTHPath, maxResponse)
	if err != nil {
		return fmt.Errorf("asking the log %s for its tree head: %w", r.name, err)
	}
	var head ct.GetSTHResponse
	if err := json.Unmarshal(answer, &head); err != nil {
		return fmt.Errorf("parsing the tree head of the log %s: %w", r.name, err)
	}
	signed, err := head.ToSignedTreeHead()
	if err != nil {
		return fmt.Errorf("parsing the tree head of the log %s: %w", r.name, err)
	}
	verifier, err := ct.NewSignatureVerifier(key.key)
	if err == nil {
		err = verifier.VerifySTHSignature(*signed)
	}
	if err != nil {
		return &InvalidHeadError{Err: err}
	}
	return nil
}

// Checkpoint asks the log for its newest checkpoint (static-ct-api, section "Checkpoints"), and
// does not verify it.
func (r *Remote) Checkpoint(ctx context.Context) ([]byte, error) {
	answer, err := r.get(ctx, "/checkpoint", maxResponse)
	if err != nil {
		return nil, fmt.Errorf("asking the log %s for its checkpoint: %w", r.name, err)
	}
	return answer, nil
}

// InvalidHeadError is a tree head or checkpoint that the log's key did not sign.
type InvalidHeadError struct{ Err error }

// Error states what does not verify.
func (e *InvalidHeadError) Error() string { return fmt.Sprintf("verifying tree head: %v", e.Err) }

// Unwrap returns Err.
func (e *InvalidHeadError) Unwrap() error { return e.Err }

// get returns an answer of at most most bytes; any status but 200 is a *StatusError.
func (r *Remote) get(ctx context.Context, path string, most int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.name+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "mayfly")
	r.authorize(req)
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, int64(most)+1))
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, r.statusError(resp, answer)
	case err != nil:
		return nil, fmt.Errorf("reading the answer: %w", err)
	case len(answer) > most:
		return nil, fmt.Errorf("the answer has more than %d bytes", most)
	}
	return answer, nil
}
