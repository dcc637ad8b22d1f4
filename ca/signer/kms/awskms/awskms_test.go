// SPDX-License-Identifier: Apache-2.0

package awskms

import (
	"errors"
	"net/http"
	"net/url"
	"testing"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
)

// answer returns the error that the SDK returns for a response.
func answer(status int, code string) error {
	response := &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"3"}}}
	var err error = &smithy.DeserializationError{Err: errors.New("it is no JSON")}
	if code != "" {
		err = &smithy.GenericAPIError{Code: code, Message: "boom"}
	}
	return &smithy.OperationError{ServiceID: "KMS", OperationName: "Sign", Err: &awshttp.ResponseError{
		ResponseError: &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: response}, Err: err},
	}}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	passing := kms.Verdict{Meaning: kms.Passing, RetryAfter: 3 * time.Second}
	stale := kms.Verdict{Meaning: kms.Unauthenticated, Remedy: signer.Reopen}
	for _, c := range []struct {
		name string
		err  error
		want kms.Verdict
	}{
		{"throttled", answer(400, "ThrottlingException"), passing},
		{"broken", answer(500, "KMSInternalException"), passing},
		{"dependency", answer(503, "DependencyTimeoutException"), passing},
		{"key unavailable", answer(500, "KeyUnavailableException"), passing},
		{"gateway", answer(502, ""), passing},
		{"limit", answer(400, "LimitExceededException"), kms.Verdict{}},
		{"disabled", answer(400, "DisabledException"), kms.Verdict{}},
		{"pending deletion", answer(400, "KMSInvalidStateException"), kms.Verdict{}},
		{"denied", answer(400, "AccessDeniedException"), kms.Verdict{Meaning: kms.Forbidden}},
		{"expired", answer(400, "ExpiredTokenException"), stale},
		{"unknown", answer(400, "UnrecognizedClientException"), stale},
		{"no key", answer(400, "NotFoundException"), kms.Verdict{Meaning: kms.Absent}},
		{"no credentials", errors.New("operation error KMS: Sign, get identity: get credentials: none"), kms.Verdict{Meaning: kms.Unauthenticated}},
		{"no credentials from an outage", &url.Error{Op: "get credentials", URL: "https://sts.example", Err: errors.New("refused")}, kms.Verdict{}},
		{"other", errors.New("boom"), kms.Verdict{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := judge(c.err); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
