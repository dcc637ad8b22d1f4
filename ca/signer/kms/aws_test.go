// SPDX-License-Identifier: Apache-2.0

package kms_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/awskms"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

const awsAccess, awsSecret = "AKIAEXAMPLE", "aws-secret"

// aws is AWS KMS. It does not check the signatures of requests.
type aws map[string]crypto.Signer // by ARN, and by alias

// awsURI returns the URI of a key. The ID must be a UUID.
func awsURI(id string) string {
	return fmt.Sprintf("awskms:///arn:aws:kms:eu-north-1:111122223333:key/00000000-0000-0000-0000-%012x", id)
}

func (a aws) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var request struct {
		KeyID                         string `json:"KeyId"`
		Message                       []byte
		MessageType, SigningAlgorithm string
	}
	body, _ := io.ReadAll(r.Body)
	err := json.Unmarshal(body, &request)
	key := a[request.KeyID]
	refuse := func(code, message string) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": message})
	}
	switch {
	case !strings.Contains(r.Header.Get("Authorization"), "Credential="+awsAccess+"/"):
		refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
		return
	case err != nil || key == nil:
		refuse("NotFoundException", fmt.Sprintf("Key '%s' does not exist, %v", request.KeyID, err))
		return
	}
	algorithms, usage, spec := awsAlgorithms(request.KeyID, key), "SIGN_VERIFY", "RSA_2048"
	if public, ok := key.Public().(*ecdsa.PublicKey); ok {
		spec = fmt.Sprintf("ECC_NIST_P%d", public.Params().BitSize)
	}
	if algorithms == nil {
		usage = "ENCRYPT_DECRYPT"
	}
	answer := map[string]any{"KeyId": request.KeyID, "Arn": request.KeyID, "KeyUsage": usage, "KeySpec": spec, "CustomerMasterKeySpec": spec, "SigningAlgorithms": algorithms}
	switch r.Header.Get("X-Amz-Target") {
	case "TrentService.GetPublicKey":
		answer["PublicKey"], err = x509.MarshalPKIXPublicKey(key.Public())
	case "TrentService.DescribeKey":
		answer = map[string]any{"KeyMetadata": answer}
	case "TrentService.Sign":
		if !slices.Contains(algorithms, request.SigningAlgorithm) || request.MessageType != "DIGEST" {
			refuse("InvalidKeyUsageException", request.SigningAlgorithm)
			return
		}
		hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[request.SigningAlgorithm[len(request.SigningAlgorithm)-3:]]
		var opts crypto.SignerOpts = hash
		if strings.Contains(request.SigningAlgorithm, "PSS") {
			opts = &rsa.PSSOptions{Hash: hash}
		}
		answer["Signature"], err = key.Sign(rand.Reader, request.Message, opts)
	}
	if err != nil {
		refuse("ValidationException", err.Error())
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// awsAlgorithms lists the algorithms of a key, which some IDs restrict.
func awsAlgorithms(id string, key crypto.Signer) []string {
	if public, ok := key.Public().(*ecdsa.PublicKey); ok {
		return []string{fmt.Sprintf("ECDSA_SHA_%d", min(public.Params().BitSize, 512))}
	}
	switch {
	case "awskms:///"+id == awsURI("pss"):
		return []string{"RSASSA_PSS_SHA_256"}
	case "awskms:///"+id == awsURI("sha512"):
		return []string{"RSASSA_PKCS1_V1_5_SHA_512"}
	case "awskms:///"+id == awsURI("enc"):
		return nil
	}
	return []string{"RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PKCS1_V1_5_SHA_384", "RSASSA_PSS_SHA_256"}
}

func newAWS(t *testing.T) place {
	key, rsaKey := ecdsaKey(t, 256), rsaKey(t, 2048)
	service := aws{}
	for id, key := range map[string]crypto.Signer{"ca": key, "p384": ecdsaKey(t, 384), "p521": ecdsaKey(t, 521), "rsa": rsaKey, "pss": rsaKey, "sha512": rsaKey, "enc": rsaKey} {
		service[strings.TrimPrefix(awsURI(id), "awskms:///")] = key
		service["alias/"+id] = key
	}
	s := &switchable{answer: service}
	serve(t, awsHost, s)
	serve(t, otherRegion, s)
	return place{
		open: awskms.Open, uri: awsURI("ca"), key: key, instead: s.Instead, down: func() func() { return disconnect(awsHost) }, secrets: []string{awsSecret},
		others: []string{awsURI("p384"), awsURI("p521"), awsURI("rsa"), "awskms://" + otherRegion + "/" + strings.TrimPrefix(awsURI("rsa"), "awskms:///")},
		mistakes: map[string]string{
			awsURI("none"):                    "NotFoundException",
			awsURI("rsa"):                     "an RSA key of 2048 bits",
			awsURI("sha512"):                  "SHA-512",
			awsURI("enc"):                     "is the key one that signs",
			"awskms://alias-without-endpoint": "should be awskms:///KEY",
			"awskms:///alias/ca":              "names no region",
		},
	}
}

// Only the certificates of AWS_CA_BUNDLE verify an endpoint.
func TestAWSUnderPrivateCA(t *testing.T) {
	p := newAWS(t)
	other := httptest.NewTLSServer(nil)
	t.Cleanup(other.Close)
	t.Setenv("AWS_CA_BUNDLE", write(t, string(pem.Encode("CERTIFICATE", other.Certificate().Raw))))
	selfTest(t, p.key.Public(), p.open, p.uri, "certificate")
	t.Setenv("AWS_CA_BUNDLE", os.Getenv("SSL_CERT_FILE"))
	selfTest(t, p.key.Public(), p.open, p.uri, "")
}

func TestAWS(t *testing.T) {
	t.Parallel()
	p := newAWS(t)
	conform(t, p)
	rsa, err := awskms.Open(t.Context(), awsURI("rsa"))
	if err != nil {
		t.Fatal(err)
	}
	selfTest(t, rsa.Public(), awskms.Open, awsURI("pss"), "does not verify")
	defer p.instead(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"__type": "ThrottlingException"}`, http.StatusBadRequest)
	})()
	if _, err := awskms.Open(t.Context(), p.uri); !signer.IsTransient(err) {
		t.Errorf("while it throttles, got %v, want a transient error", err)
	}
}
