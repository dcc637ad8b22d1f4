// SPDX-License-Identifier: Apache-2.0

// Package gcpkms opens a private key at Google Cloud KMS.
//
// app and the commands may import it.
package gcpkms

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature/kms/gcp"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Config names a key. The credentials are the application's default ones: of the file that
// GOOGLE_APPLICATION_CREDENTIALS names, of gcloud's own file, or of the machine's service
// account.
type Config struct {
	// URI is gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/N. The
	// version is mandatory: a rotation creates another key, which is not that of the certificate.
	URI string
}

// Open requests the key's public half. Errors of the setting have the key path ["uri"].
func Open(ctx context.Context, cfg Config) (signer.Key, error) {
	if err := gcp.ValidReference(cfg.URI); err != nil {
		return nil, keypath.Errorf([]string{"uri"}, "%q should be gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/N", cfg.URI)
	}
	if !strings.Contains(cfg.URI, "/cryptoKeyVersions/") && !strings.Contains(cfg.URI, "/versions/") {
		return nil, keypath.Errorf([]string{"uri"}, "%s names no version, and would be another key after a rotation; add /cryptoKeyVersions/N with the version that belongs to the certificate", cfg.URI)
	}
	w := &wire{opening: ctx}
	// The client keeps this ctx for its lifetime, so it must outlive this call.
	client, err := gcp.LoadSignerVerifier(context.WithoutCancel(ctx), cfg.URI, w.options()...)
	if err != nil {
		// The client has only looked for credentials yet.
		return nil, service(cfg.URI).Explain(ctx, &credentialsError{err})
	}
	key, err := kms.FromSigstore(ctx, client, service(cfg.URI))
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	key.Release = w.close
	return kms.New(key)
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

func service(uri string) kms.Service {
	return kms.Service{
		Name: "Google Cloud KMS", URI: uri,
		Credentials: "look at the application's default credentials: GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account",
		Permission:  "the service account needs roles/cloudkms.signerVerifier and roles/cloudkms.viewer on the key",
		Reach:       "kms.uri",
		Absence:     "look at kms.uri",
		Trust:       "see what stands between: a proxy's own authority may be missing in SSL_CERT_FILE",
		Judge:       judge,
	}
}
