// SPDX-License-Identifier: Apache-2.0

package kms_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/mayfly-ca/mayfly/ca/signer/kms/gcpkms"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

const googleAccount = "mayfly@project.iam.gserviceaccount.com"

// google is Google Cloud KMS with keys by their URIs.
type google struct {
	kmspb.UnimplementedKeyManagementServiceServer
	keys map[string]crypto.Signer
}

func googleURI(key string) string {
	return "gcpkms://projects/project/locations/europe-north1/keyRings/ring/cryptoKeys/" + strings.Replace(key, "/", "/cryptoKeyVersions/", 1)
}

// googleCredentials writes a file with the credentials of a service account.
func googleCredentials(dir string) (path string, err error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	file, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "project", "private_key_id": "1", "client_email": googleAccount, "client_id": "1",
		"private_key": string(pem.Encode("PRIVATE KEY", der)), "token_uri": "https://oauth2.googleapis.com/token",
	})
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "credentials.json")
	return path, os.WriteFile(path, file, 0o600)
}

// refuseGRPC answers a call with a code (gRPC over HTTP2, Responses).
func refuseGRPC(w http.ResponseWriter, code string) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Grpc-Status", code)
	w.Header().Set("Grpc-Message", "a fault")
}

// authenticate accepts the account's self-signed JWT (https://google.aip.dev/auth/4111). It does not
// check the signature.
func (g *google) authenticate(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	token := strings.Split(strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), " ")+"..", ".")
	if claims, _ := base64.RawURLEncoding.DecodeString(token[1]); !strings.Contains(string(claims), googleAccount) {
		return nil, status.Error(codes.Unauthenticated, "Request had invalid authentication credentials")
	}
	return handle(ctx, request)
}

func (g *google) key(resource string) (crypto.Signer, error) {
	if key := g.keys["gcpkms://"+resource]; key != nil {
		return key, nil
	}
	return nil, status.Errorf(codes.NotFound, "%s not found.", resource)
}

func (g *google) GetCryptoKey(_ context.Context, request *kmspb.GetCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	_, err := g.key(request.GetName() + "/cryptoKeyVersions/1")
	return &kmspb.CryptoKey{Name: request.GetName(), Purpose: kmspb.CryptoKey_ASYMMETRIC_SIGN}, err
}

func (g *google) GetCryptoKeyVersion(_ context.Context, request *kmspb.GetCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	key, err := g.key(request.GetName())
	if err != nil {
		return nil, err
	}
	return &kmspb.CryptoKeyVersion{Name: request.GetName(), State: kmspb.CryptoKeyVersion_ENABLED, Algorithm: googleAlgorithm(request.GetName(), key)}, nil
}

// googleAlgorithm returns the algorithm of the key's kind. Some resource names select another.
func googleAlgorithm(resource string, key crypto.Signer) kmspb.CryptoKeyVersion_CryptoKeyVersionAlgorithm {
	public, ec := key.Public().(*ecdsa.PublicKey)
	switch {
	case strings.Contains(resource, "/pss/"):
		return kmspb.CryptoKeyVersion_RSA_SIGN_PSS_2048_SHA256
	case strings.Contains(resource, "/sha512/"):
		return kmspb.CryptoKeyVersion_RSA_SIGN_PKCS1_4096_SHA512
	case !ec:
		return kmspb.CryptoKeyVersion_RSA_SIGN_PKCS1_2048_SHA256
	case public.Params().BitSize == 384:
		return kmspb.CryptoKeyVersion_EC_SIGN_P384_SHA384
	}
	return kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256
}

func (g *google) GetPublicKey(_ context.Context, request *kmspb.GetPublicKeyRequest) (*kmspb.PublicKey, error) {
	key, err := g.key(request.GetName())
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	text := pem.Encode("PUBLIC KEY", der)
	return &kmspb.PublicKey{Name: request.GetName(), Pem: string(text), PemCrc32C: castagnoli(text), Algorithm: googleAlgorithm(request.GetName(), key)}, err
}

// AsymmetricSign omits the checksum for a key named "unchecked".
func (g *google) AsymmetricSign(_ context.Context, request *kmspb.AsymmetricSignRequest) (*kmspb.AsymmetricSignResponse, error) {
	key, err := g.key(request.GetName())
	if err != nil {
		return nil, err
	}
	hash, digest := crypto.SHA256, request.GetDigest().GetSha256()
	if digest == nil {
		hash, digest = crypto.SHA384, request.GetDigest().GetSha384()
	}
	if castagnoli(digest).GetValue() != request.GetDigestCrc32C().GetValue() {
		return nil, status.Error(codes.InvalidArgument, "the checksum of the digest is wrong")
	}
	var opts crypto.SignerOpts = hash
	if strings.Contains(request.GetName(), "/pss/") {
		opts = &rsa.PSSOptions{Hash: hash}
	}
	signature, err := key.Sign(rand.Reader, digest, opts)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	response := &kmspb.AsymmetricSignResponse{Name: request.GetName(), Signature: signature, SignatureCrc32C: castagnoli(signature), VerifiedDigestCrc32C: true}
	if strings.Contains(request.GetName(), "/unchecked/") {
		response.SignatureCrc32C = nil
	}
	return response, nil
}

func castagnoli(data []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))))
}

func newGoogle(t *testing.T) place {
	key, rsa := ecdsaKey(t, 256), rsaKey(t, 2048)
	g := &google{keys: map[string]crypto.Signer{}}
	for name, key := range map[string]crypto.Signer{
		"ca/1": key, "ca/2": ecdsaKey(t, 256), "p384/1": ecdsaKey(t, 384), "rsa/1": rsa, "pss/1": rsa, "sha512/1": rsa, "unchecked/1": key,
	} {
		g.keys[googleURI(name)] = key
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(g.authenticate))
	kmspb.RegisterKeyManagementServiceServer(server, g)
	s := &switchable{answer: server}
	serve(t, googleHost, s)
	return place{
		open: gcpkms.Open, uri: googleURI("ca/1"), key: key, instead: s.Instead, down: func() func() { return disconnect(googleHost) }, secrets: []string{"PRIVATE KEY", "Bearer"},
		others: []string{googleURI("p384/1"), googleURI("rsa/1")},
		mistakes: map[string]string{
			googleURI("none/1"):   "cryptoKeys/none",
			googleURI("ca/7"):     "cryptoKeyVersions/7",
			googleURI("ca/2"):     "it is not the key of the authority's certificate",
			googleURI("rsa/1"):    "an RSA key of 2048 bits",
			googleURI("sha512/1"): "SHA-512",
			googleURI("ca"):       "the version that belongs to the certificate",
			"gcpkms://ca":         "should be gcpkms://projects/P",
		},
	}
}

func TestGoogle(t *testing.T) {
	t.Parallel()
	p := newGoogle(t)
	conform(t, p)
	selfTest(t, p.key.Public(), p.open, googleURI("unchecked/1"), "does not understand its answer")
	rsa, err := p.open(t.Context(), googleURI("rsa/1"))
	if err != nil {
		t.Fatal(err)
	}
	selfTest(t, rsa.Public(), p.open, googleURI("pss/1"), "does not verify")
	if err := rsa.Close(); err != nil {
		t.Error(err)
	}
}

// Keys that are closed, or that could not be opened, leave no connection behind: during an outage a
// key is opened every second. Not parallel.
func TestNothingStaysOfGoogle(t *testing.T) {
	p := newGoogle(t)
	before := runtime.NumGoroutine()
	const times = 10
	for range times {
		key, err := p.open(t.Context(), p.uri)
		if err != nil {
			t.Fatal(err)
		}
		if err := key.Close(); err != nil {
			t.Error(err)
		}
		if _, err := p.open(t.Context(), googleURI("ca/7")); err == nil {
			t.Error("a missing version opens")
		}
	}
	disconnect(googleHost)() // the proxy's goroutines
	signertest.Await(t, "the end of what was opened", func() error {
		if now := runtime.NumGoroutine(); now > before+times/2 {
			return fmt.Errorf("%d goroutines, and %d before", now, before)
		}
		return nil
	})
}
