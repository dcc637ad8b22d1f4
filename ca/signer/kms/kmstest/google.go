// SPDX-License-Identifier: Apache-2.0

package kmstest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	googleAccount = "mayfly@project.iam.gserviceaccount.com"
	googleRing    = "projects/project/locations/europe-north1/keyRings/ring/cryptoKeys/"
)

// Google is Google Cloud KMS.
type Google struct {
	service
	kmspb.UnimplementedKeyManagementServiceServer
	account crypto.Signer
	keys    map[string]crypto.Signer // by the name of their version; guarded by mu
}

// NewGoogle serves Google Cloud KMS.
func NewGoogle(n *Internet) *Google {
	n.t.Helper()
	g := &Google{account: RSA(n.t, 2048), keys: map[string]crypto.Signer{}}
	listener, cfg := n.Listen("cloudkms.googleapis.com")
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(cfg)), grpc.UnaryInterceptor(g.intercept))
	kmspb.RegisterKeyManagementServiceServer(server, g)
	go func() { _ = server.Serve(listener) }()
	n.t.Cleanup(server.Stop)
	return g
}

// Setenv sets the environment to a file with the credentials of the service account, or of
// an account that the service does not know.
func (g *Google) Setenv(t *testing.T, known bool) {
	t.Helper()
	key := g.account
	if !known {
		key = RSA(t, 2048)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "project", "private_key_id": "1", "client_email": googleAccount, "client_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "token_uri": "https://oauth2.googleapis.com/token",
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "credentials.json")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
}

// Add adds key as a version of the key name, and returns the version's resource name.
func (g *Google) Add(name string, key crypto.Signer) (resource string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	prefix := googleRing + name + "/cryptoKeyVersions/"
	number := 1
	for g.keys[fmt.Sprint(prefix, number)] != nil {
		number++
	}
	resource = fmt.Sprint(prefix, number)
	g.keys[resource] = key
	return resource
}

// intercept admits callers with a token of the account, and applies the troubles.
func (g *Google) intercept(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	// gRPC sends the caller's deadline to the service. The ctx ends at that moment, when an answer
	// might still be in time.
	trouble := g.now(context.WithoutCancel(ctx))
	names := map[int]codes.Code{403: codes.PermissionDenied, 429: codes.ResourceExhausted, 500: codes.Internal, 503: codes.Unavailable}
	if trouble.Status != 0 {
		answer := status.New(names[trouble.Status], "in trouble")
		if trouble.RetryAfter > 0 {
			detailed, err := answer.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(trouble.RetryAfter) * time.Second)})
			if err != nil {
				return nil, err
			}
			answer = detailed
		}
		return nil, answer.Err()
	}
	if err := g.authenticate(ctx); err != nil {
		return nil, status.Errorf(codes.Unauthenticated, "Request had invalid authentication credentials: %v", err)
	}
	return handle(ctx, request)
}

// authenticate accepts a self-signed JWT (https://google.aip.dev/auth/4111).
func (g *Google) authenticate(ctx context.Context) error {
	header := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(header) != 1 {
		return errors.New("there is no token")
	}
	token, err := jwt.ParseSigned(strings.TrimPrefix(header[0], "Bearer "), []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return err
	}
	var claims jwt.Claims
	if err := token.Claims(g.account.Public(), &claims); err != nil {
		return err
	}
	return claims.Validate(jwt.Expected{Issuer: googleAccount, Subject: googleAccount, Time: time.Now()})
}

func (g *Google) key(resource string) (crypto.Signer, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if key := g.keys[resource]; key != nil {
		return key, nil
	}
	return nil, status.Errorf(codes.NotFound, "CryptoKeyVersion %s not found.", resource)
}

// GetCryptoKey implements kmspb.KeyManagementServiceServer.
func (g *Google) GetCryptoKey(_ context.Context, request *kmspb.GetCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	if _, err := g.key(request.GetName() + "/cryptoKeyVersions/1"); err != nil {
		return nil, status.Errorf(codes.NotFound, "CryptoKey %s not found.", request.GetName())
	}
	return &kmspb.CryptoKey{Name: request.GetName(), Purpose: kmspb.CryptoKey_ASYMMETRIC_SIGN}, nil
}

// GetCryptoKeyVersion implements kmspb.KeyManagementServiceServer.
func (g *Google) GetCryptoKeyVersion(_ context.Context, request *kmspb.GetCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	key, err := g.key(request.GetName())
	if err != nil {
		return nil, err
	}
	return &kmspb.CryptoKeyVersion{Name: request.GetName(), State: kmspb.CryptoKeyVersion_ENABLED, Algorithm: googleAlgorithm(request.GetName(), key)}, nil
}

// googleAlgorithm returns the algorithm of the key's kind. Some resource names select another.
func googleAlgorithm(resource string, key crypto.Signer) kmspb.CryptoKeyVersion_CryptoKeyVersionAlgorithm {
	switch public := key.Public().(type) {
	case *ecdsa.PublicKey:
		if public.Params().BitSize == 384 {
			return kmspb.CryptoKeyVersion_EC_SIGN_P384_SHA384
		}
		return kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256
	case *rsa.PublicKey:
		switch {
		case strings.Contains(resource, "/pss/"):
			return kmspb.CryptoKeyVersion_RSA_SIGN_PSS_2048_SHA256
		case strings.Contains(resource, "/sha512/"):
			return kmspb.CryptoKeyVersion_RSA_SIGN_PKCS1_4096_SHA512
		case public.N.BitLen() == 3072:
			return kmspb.CryptoKeyVersion_RSA_SIGN_PKCS1_3072_SHA256
		}
		return kmspb.CryptoKeyVersion_RSA_SIGN_PKCS1_2048_SHA256
	}
	return kmspb.CryptoKeyVersion_EC_SIGN_ED25519
}

// GetPublicKey implements kmspb.KeyManagementServiceServer.
func (g *Google) GetPublicKey(_ context.Context, request *kmspb.GetPublicKeyRequest) (*kmspb.PublicKey, error) {
	key, err := g.key(request.GetName())
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return &kmspb.PublicKey{Name: request.GetName(), Pem: string(text), PemCrc32C: castagnoli(text), Algorithm: googleAlgorithm(request.GetName(), key)}, nil
}

// AsymmetricSign implements kmspb.KeyManagementServiceServer. For a key named "unchecked" it omits
// the checksum.
func (g *Google) AsymmetricSign(_ context.Context, request *kmspb.AsymmetricSignRequest) (*kmspb.AsymmetricSignResponse, error) {
	key, err := g.key(request.GetName())
	if err != nil {
		return nil, err
	}
	digests := map[crypto.Hash][]byte{crypto.SHA256: request.GetDigest().GetSha256(), crypto.SHA384: request.GetDigest().GetSha384(), crypto.SHA512: request.GetDigest().GetSha512()}
	for hash, digest := range digests {
		if digest == nil {
			continue
		}
		if castagnoli(digest).GetValue() != request.GetDigestCrc32C().GetValue() {
			return nil, status.Error(codes.InvalidArgument, "the checksum of the digest is wrong")
		}
		signature, err := g.sign(key, digest, hash, strings.Contains(request.GetName(), "/pss/"))
		if err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		response := &kmspb.AsymmetricSignResponse{Name: request.GetName(), Signature: signature, SignatureCrc32C: castagnoli(signature), VerifiedDigestCrc32C: true}
		if strings.Contains(request.GetName(), "/unchecked/") {
			response.SignatureCrc32C = nil
		}
		return response, nil
	}
	return nil, status.Error(codes.InvalidArgument, "a digest is wanted")
}

func castagnoli(data []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))))
}
