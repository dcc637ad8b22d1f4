// SPDX-License-Identifier: Apache-2.0

package app

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// failingLog returns no SCT.
type failingLog struct{ *testlog.Log }

func (failingLog) Name() string { return "https://failing.example" }
func (failingLog) Submit(context.Context, ctlog.Submission) (ctlog.SCT, error) {
	return ctlog.SCT{}, errors.New("500 out of order")
}

// TestReadinessShowsTheFirstFailure: the operator sees the error of a log before its breaker opens.
func TestReadinessShowsTheFirstFailure(t *testing.T) {
	t.Parallel()
	log, err := testlog.New(testlog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	logs, err := ctlog.New(ctlog.Config{Logs: []ctlog.LogConfig{{Log: failingLog{log}, PublicKey: log.PublicKeyPEM()}}})
	if err != nil {
		t.Fatal(err)
	}
	check := ctCheck(logs)
	if detail, err := check.Probe(t.Context()); err != nil || detail != "https://failing.example: breaker closed" {
		t.Errorf("before any submission: %q, %v", detail, err)
	}
	if _, err := logs.Add(t.Context(), ctlog.Submission{Chain: [][]byte{{1}, {2}}, TBS: []byte{3}}); err == nil {
		t.Fatal("the failing log gave an SCT")
	}
	detail, err := check.Probe(t.Context())
	if err == nil || err.Error() != "https://failing.example: 500 out of order" || detail != "https://failing.example: breaker closed, 1 failure" {
		t.Errorf("after the first failure: %q, %v", detail, err)
	}
	if strings.Contains(detail, "500") {
		t.Error("the error is shown to every client")
	}
	if check.Critical {
		t.Error("a failing log makes the server not ready, and so no certificate can close its breaker")
	}
}
