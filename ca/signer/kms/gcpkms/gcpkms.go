// SPDX-License-Identifier: Apache-2.0

// Package gcpkms opens a private key at Google Cloud KMS.
//
// app and the commands may import it.
package gcpkms

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/sigstore/sigstore/pkg/signature/kms/gcp"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Open requests the public half of a key. uri is
// gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/N. The version is
// mandatory: a rotation creates another key, which is not that of the certificate. The credentials
// are the application's default ones. Errors of uri have the key path ["uri"].
func Open(ctx context.Context, uri string) (signer.Key, error) {
	if gcp.ValidReference(uri) != nil || !strings.Contains(uri, "/cryptoKeyVersions/") && !strings.Contains(uri, "/versions/") {
		return nil, keypath.Errorf([]string{"uri"}, "%q should be gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/N, with the version that belongs to the certificate", uri)
	}
	service := kms.Service{
		Name: "Google Cloud KMS", URI: uri, Status: httpStatus,
		Hint: "look at the URI, at the application's default credentials (GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account), and at their roles on the key: roles/cloudkms.signerVerifier and roles/cloudkms.viewer",
	}
	w := &wire{opening: ctx}
	// The client keeps this ctx for its lifetime, so it must outlive this call.
	client, err := gcp.LoadSignerVerifier(context.WithoutCancel(ctx), uri, w.options()...)
	if err != nil {
		return nil, service.Explain(ctx, err)
	}
	key, err := kms.FromSigstore(ctx, client, service)
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	key.Release = w.close
	return kms.New(key)
}

// wire is between sigstore's client and Google.
type wire struct {
	// opening is the context in which the key is opened.
	opening context.Context
	conn    atomic.Pointer[grpc.ClientConn]
}

// options make Google's client use one connection and our timeouts.
func (w *wire) options() []option.ClientOption {
	return []option.ClientOption{
		option.WithGRPCConnectionPool(1), // the number that close can close
		option.WithGRPCDialOption(grpc.WithChainUnaryInterceptor(w.intercept)),
		// The default backoff, up to two minutes after an outage, is too long.
		option.WithGRPCDialOption(grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		})),
		// Otherwise a dead connection is used until TCP gives up.
		option.WithGRPCDialOption(grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 5 * time.Second})),
	}
}

// intercept is a grpc.UnaryClientInterceptor.
func (w *wire) intercept(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	w.conn.Store(conn)
	if _, signs := reply.(*kmspb.AsymmetricSignResponse); !signs {
		// Sigstore's client requests the key once, in the background, while the key is opened.
		bounded, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(w.opening, cancel)()
		ctx = bounded
	}
	if err := invoke(ctx, method, request, reply, conn, opts...); err != nil {
		return &answerError{status.Convert(err)}
	}
	return nil
}

// close closes the connection; sigstore's client has no such function.
func (w *wire) close() error {
	if conn := w.conn.Swap(nil); conn != nil {
		return conn.Close()
	}
	return nil
}

// answerError is an answer that is an error. It hides its kind from Google's client, which would
// otherwise retry for a minute: a Signer retries, and bounds the retries.
type answerError struct{ answer *status.Status }

func (e *answerError) Error() string {
	return fmt.Sprintf("%s: %s", e.answer.Code(), e.answer.Message())
}

// httpStatus implements kms.Service.Status: https://cloud.google.com/apis/design/errors.
func httpStatus(err error) (int, http.Header) {
	var answer *answerError
	if !errors.As(err, &answer) {
		return 0, nil
	}
	switch answer.answer.Code() {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Internal, codes.Aborted:
		return http.StatusServiceUnavailable, nil
	}
	return http.StatusBadRequest, nil
}
