// SPDX-License-Identifier: Apache-2.0

package gcpkms

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mayfly-ca/mayfly/ca/signer/kms"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	want := map[codes.Code]kms.Meaning{
		codes.Unavailable: kms.Passing, codes.ResourceExhausted: kms.Passing, codes.DeadlineExceeded: kms.Passing, codes.Internal: kms.Passing,
		codes.Aborted: kms.Passing, codes.Unauthenticated: kms.Unauthenticated, codes.PermissionDenied: kms.Forbidden, codes.NotFound: kms.Absent,
		codes.FailedPrecondition: kms.Other, codes.InvalidArgument: kms.Other, codes.Unknown: kms.Other, codes.Canceled: kms.Other,
	}
	for code, meaning := range want {
		err := fmt.Errorf("wrapped: %w", &answerError{status.New(code, "boom")})
		if got := judge(err); got != (kms.Verdict{Meaning: meaning}) {
			t.Errorf("%s: got %+v, want %d", code, got, meaning)
		}
		// Otherwise Google's client would retry.
		if _, ok := status.FromError(err); ok {
			t.Errorf("%s: its status shows", code)
		}
	}
	if got := judge(errors.New("boom")); got != (kms.Verdict{}) {
		t.Errorf("an error of nobody's: got %+v", got)
	}
}

func TestRetryDelay(t *testing.T) {
	t.Parallel()
	for _, want := range []time.Duration{0, 3 * time.Second} {
		answer, err := status.New(codes.ResourceExhausted, "boom").WithDetails(&errdetails.ErrorInfo{}, &errdetails.RetryInfo{RetryDelay: durationpb.New(want)})
		if err != nil {
			t.Fatal(err)
		}
		if got := judge(&answerError{answer}).RetryAfter; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
