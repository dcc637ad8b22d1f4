// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	ct "github.com/google/certificate-transparency-go"
)

// maxRootsResponse bounds the answer to get-roots; logs of the Web PKI list hundreds.
const maxRootsResponse = 8 << 20

// Roots asks the log which roots it accepts (RFC 6962, section 4.7), each as DER.
func (r *Remote) Roots(ctx context.Context) ([][]byte, error) {
	var roots struct {
		Certificates [][]byte `json:"certificates"`
	}
	err := r.get(ctx, ct.GetRootsPath, maxRootsResponse, &roots)
	return roots.Certificates, err
}

// VerifyTreeHead asks the log for its newest tree head (RFC 6962, section 4.3), and verifies it
// with key. A head that another key signed is an *InvalidHeadError; a log without get-sth, such
// as a static-ct-api log, is a *StatusError.
func (r *Remote) VerifyTreeHead(ctx context.Context, key *PublicKey) error {
	var answer ct.GetSTHResponse
	if err := r.get(ctx, ct.GetSTHPath, maxResponse, &answer); err != nil {
		return err
	}
	head, err := answer.ToSignedTreeHead()
	if err != nil {
		return fmt.Errorf("parsing the tree head of the log %s: %w", r.name, err)
	}
	if err := key.VerifyTreeHead(*head); err != nil {
		return &InvalidHeadError{Err: err}
	}
	return nil
}

// get parses the JSON answer to a request.
func (r *Remote) get(ctx context.Context, path string, most int, answer any) error {
	body, err := r.do(ctx, http.MethodGet, path, nil, most)
	if err == nil {
		err = json.Unmarshal(body, answer)
	}
	if err != nil {
		return fmt.Errorf("asking the log %s for %s: %w", r.name, path, err)
	}
	return nil
}

// Checkpoint asks the log for its newest checkpoint (static-ct-api, section "Checkpoints"), and
// does not verify it.
func (r *Remote) Checkpoint(ctx context.Context) ([]byte, error) {
	answer, err := r.do(ctx, http.MethodGet, "/checkpoint", nil, maxResponse)
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
