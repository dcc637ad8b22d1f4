// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// TestEveryReasonHasItsStatus is the table of the design: kind, gRPC code, HTTP status.
func TestEveryReasonHasItsStatus(t *testing.T) {
	t.Parallel()
	want := map[refusal.Kind]struct {
		code codes.Code
		http int
	}{
		refusal.Malformed:        {codes.InvalidArgument, 400},
		refusal.Unauthenticated:  {codes.Unauthenticated, 401},
		refusal.Denied:           {codes.PermissionDenied, 403},
		refusal.NotFound:         {codes.NotFound, 404},
		refusal.MethodNotAllowed: {codes.Unimplemented, 405},
		refusal.SlowDown:         {codes.ResourceExhausted, 429},
		refusal.Unavailable:      {codes.Unavailable, 503},
		refusal.Internal:         {codes.Internal, 500},
	}
	for _, entry := range refusal.Table() {
		t.Run(string(entry.Reason), func(t *testing.T) {
			t.Parallel()
			code, httpStatus := codeOf(entry.Kind)
			if w := want[entry.Kind]; code != w.code || httpStatus != w.http {
				t.Errorf("%v, %d, want %v, %d", code, httpStatus, w.code, w.http)
			}
			for _, path := range []string{"/api/v2/signingCert", "/api/v1/signingCert"} {
				f := newFixture(t, nil)
				f.refuse(refusal.New(entry.Reason, "a sentence").Because(errors.New("inner secret")))
				body := goodV2
				if strings.Contains(path, "v1") {
					body = goodV1
				}
				resp := f.do(t, "POST", path, body, "Authorization", "Bearer a.b.c")
				if message := checkRefusal(t, resp, entry.Reason); message != "a sentence" {
					t.Errorf("message is %q", message)
				}
				retry := resp.Header.Get("Retry-After") != ""
				if wantRetry := httpStatus == 429 || httpStatus == 503; retry != wantRetry {
					t.Errorf("Retry-After is %q", resp.Header.Get("Retry-After"))
				}
				if (resp.Header.Get("WWW-Authenticate") == "Bearer") != (httpStatus == 401) {
					t.Errorf("WWW-Authenticate is %q", resp.Header.Get("WWW-Authenticate"))
				}
			}
		})
	}
}

func TestUnknownKindIsInternal(t *testing.T) {
	t.Parallel()
	if code, status := codeOf(refusal.Kind(200)); code != codes.Internal || status != 500 {
		t.Errorf("%v %d", code, status)
	}
}

// TestWhatNobodyMeantForAClientIsHidden also covers the case of a key-management failure that
// reached the client with the key's name.
func TestWhatNobodyMeantForAClientIsHidden(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"an ordinary error":                errors.New("opening awskms:///secret-key"),
		"a reason that the table lacks":    refusal.New("SECRET_REASON", "opening awskms:///secret-key"),
		"such a refusal as somebody cause": refusal.New(refusal.InternalError, "it failed").Because(errors.New("awskms:///secret-key")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			f.refuse(err)
			resp := f.do(t, "POST", "/api/v2/signingCert", goodV2, "X-Request-Id", "id-1")
			if message := checkRefusal(t, resp, refusal.InternalError); strings.Contains(strings.ToLower(message), "secret") {
				t.Errorf("message is %q", message)
			}
			record := f.log.request(t, "id-1")
			if cause, _ := record["cause"].(string); !strings.Contains(cause, "secret-key") || record["level"] != "ERROR" || record["reason"] != "INTERNAL" {
				t.Errorf("the operator's record is %v", record)
			}
		})
	}
}

func TestRetryAfterIsRoundedUp(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0:                       "1",
		time.Millisecond:        "1",
		1500 * time.Millisecond: "2",
		time.Minute:             "60",
	} {
		e := refusal.New(refusal.RateLimited, "slow down")
		e.RetryAfter = d
		w := httptest.NewRecorder()
		writeRefusal(w, e, "id-1")
		if got := w.Header().Get("Retry-After"); got != want {
			t.Errorf("%v became %q, want %q", d, got, want)
		}
	}
}
