// SPDX-License-Identifier: Apache-2.0

package kms

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// told is an error with its verdict.
type told struct {
	error
	verdict Verdict
}

func words() Service {
	return Service{
		Name: "Service", URI: "kms://key", Credentials: "look at the credentials", Permission: "it needs sign", Reach: "kms.address", Absence: "look at kms.uri", Trust: "name the authority",
		Judge: func(err error) Verdict {
			var t *told
			errors.As(err, &t)
			if t == nil {
				return Verdict{}
			}
			return t.verdict
		},
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	refused := &url.Error{Op: "Post", URL: "https://kms.example", Err: &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}}
	untrusted := &url.Error{Op: "Post", URL: "https://kms.example", Err: &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}}
	for _, c := range []struct {
		name   string
		err    error
		want   string
		remedy signer.Remedy
		after  time.Duration
	}{
		{"other", boom, "Service: the key kms://key (kms.uri): boom", 0, 0},
		{"passing", &told{boom, Verdict{Meaning: Passing, RetryAfter: time.Second}}, "Service fails: boom; the key is kms://key (kms.uri)", signer.Retry, time.Second},
		{"unauthenticated", &told{boom, Verdict{Meaning: Unauthenticated}}, "Service does not accept the credentials: boom; look at the credentials", 0, 0},
		{"stale", &told{boom, Verdict{Meaning: Unauthenticated, Remedy: signer.Reopen}}, "Service does not accept the credentials: boom; look at the credentials", signer.Reopen, 0},
		{"no token", &told{refused, Verdict{Meaning: Unauthenticated, Remedy: signer.Retry}}, "nobody vouches for us to Service: " + refused.Error() + "; if that does not pass, look at the credentials", signer.Retry, 0},
		{"forbidden", &told{boom, Verdict{Meaning: Forbidden}}, "Service does not let us use the key kms://key (kms.uri): boom; it needs sign", 0, 0},
		{"absent", &told{boom, Verdict{Meaning: Absent}}, "Service knows no key kms://key: boom; look at kms.uri", 0, 0},
		{"refused", refused, "Service is not reached: " + refused.Error() + "; see whether it runs, and whether kms.address, the network and the proxy are right", signer.Retry, 0},
		{"cut off", io.ErrUnexpectedEOF, "Service is not reached: unexpected EOF; see whether it runs, and whether kms.address, the network and the proxy are right", signer.Retry, 0},
		{"untrusted", untrusted, "the certificate of Service is not trusted: " + untrusted.Error() + "; name the authority", 0, 0},
		{"lines", errors.New("one\n  two\xff\n"), "Service: the key kms://key (kms.uri): one two?", 0, 0},
		{"long", errors.New(strings.Repeat("é", 1000)), "Service: the key kms://key (kms.uri): " + strings.Repeat("é", 500) + "…", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := words().Explain(t.Context(), c.err)
			var f signer.Failure
			if found := (*signer.Failure)(nil); errors.As(err, &found) {
				f = *found
			}
			if err.Error() != c.want || f.Remedy != c.remedy || f.RetryAfter != c.after {
				t.Errorf("got %q, remedy %d after %s; want %q, %d after %s", err, f.Remedy, f.RetryAfter, c.want, c.remedy, c.after)
			}
			if !errors.Is(err, c.err) {
				t.Error("the cause is lost")
			}
		})
	}
}

// TestExplainEnd checks that an error after the end of the context says nothing about the service.
func TestExplainEnd(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := words().Explain(ctx, &told{errors.New("boom"), Verdict{Meaning: Passing}})
	if want := "waiting for Service: context canceled (boom)"; err.Error() != want || !errors.Is(err, context.Canceled) || signer.IsTransient(err) {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestJudgeStatus(t *testing.T) {
	t.Parallel()
	meanings := map[int]Meaning{
		400: Other, 401: Unauthenticated, 403: Forbidden, 404: Absent, 405: Other, 408: Passing, 409: Other, 412: Other,
		429: Passing, 500: Passing, 501: Other, 502: Passing, 503: Passing, 504: Passing,
	}
	for status, meaning := range meanings {
		want := Verdict{Meaning: meaning}
		if meaning == Passing {
			want.RetryAfter = 7 * time.Second
		}
		if got := JudgeStatus(status, http.Header{"Retry-After": {"7"}}); got != want {
			t.Errorf("%d: got %v, want %v", status, got, want)
		}
	}
}
