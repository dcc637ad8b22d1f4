// SPDX-License-Identifier: Apache-2.0

package gcpkms

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca/signer/kms"
)

// wire intercepts the calls between sigstore's client and Google.
type wire struct {
	// opening is the context in which the key is opened.
	opening context.Context
	conn    atomic.Pointer[grpc.ClientConn]
}

// intercept is a grpc.UnaryClientInterceptor.
func (w *wire) intercept(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	w.conn.Store(conn)
	signed, signs := reply.(*kmspb.AsymmetricSignResponse)
	if !signs {
		// Sigstore's client requests the key once, in the background, while the key is opened.
		bounded, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(w.opening, cancel)()
		ctx = bounded
	}
	if err := invoke(ctx, method, request, reply, conn, opts...); err != nil {
		return &answerError{status.Convert(err)}
	}
	if signs && signed.GetSignatureCrc32C() == nil {
		return errors.New("the answer has no checksum") // without one sigstore's client panics
	}
	return nil
}

// close closes the connection; sigstore's client has no such function.
func (w *wire) close() error {
	conn := w.conn.Swap(nil)
	if conn == nil {
		return nil
	}
	if err := conn.Close(); err != nil && status.Code(err) != codes.Canceled {
		return fmt.Errorf("closing the connection to Google Cloud KMS: %w", err)
	}
	return nil
}

// answerError is an answer that is an error. It hides its kind from Google's client, which would
// otherwise retry for a minute: a Signer does that better.
type answerError struct{ answer *status.Status }

func (e *answerError) Error() string {
	return fmt.Sprintf("%s: %s", e.answer.Code(), e.answer.Message())
}

// credentialsError is the error of missing credentials.
type credentialsError struct{ error }

func (e *credentialsError) Unwrap() error { return e.error }

// judge classifies an error: https://cloud.google.com/apis/design/errors.
func judge(err error) kms.Verdict {
	if errors.As(err, new(*credentialsError)) {
		return kms.Verdict{Meaning: kms.Unauthenticated}
	}
	var answer *answerError
	if !errors.As(err, &answer) {
		return kms.Verdict{}
	}
	switch answer.answer.Code() {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Internal, codes.Aborted:
		return kms.Verdict{Meaning: kms.Passing, RetryAfter: retryDelay(answer.answer)}
	case codes.Unauthenticated:
		return kms.Verdict{Meaning: kms.Unauthenticated}
	case codes.PermissionDenied:
		return kms.Verdict{Meaning: kms.Forbidden}
	case codes.NotFound:
		return kms.Verdict{Meaning: kms.Absent}
	}
	return kms.Verdict{}
}

// retryDelay returns how long the service asked for a pause.
func retryDelay(answer *status.Status) time.Duration {
	for _, detail := range answer.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return max(info.GetRetryDelay().AsDuration(), 0)
		}
	}
	return 0
}
